"""Names under which trainer files of other CoOp-style repositories import what they share.

``from .coop import load_clip_to_cpu`` finds the names of this file, ``from .imagenet_templates
import ...`` and ``import trainers.zsclip`` the modules of this folder, which is searched after
``trainers``: a file of the same name that is put there is used instead. Nothing of VLTune itself
imports from here. What runs, and how: docs/compatibility.md.

zsclip.py, imagenet_templates.py    zero-shot CLIP and its templates
adapters.py, mmadapter.py           CLAP and MMA
vpt.py, independentVL.py            visual and independent prompts
"""

from yacs.config import CfgNode

from clip import load_backbone
from clip.model import CLIP
from trainers.common.text.templates import template_lists

CUSTOM_TEMPLATES: dict[str, str] = dict(template_lists()["coop_zeroshot"])


def load_clip_to_cpu(cfg: CfgNode) -> CLIP:
    """The backbone of a run as OpenAI stores it: on the CPU, matrices in float16, trainable."""
    return load_backbone(cfg.MODEL.BACKBONE.NAME, precision="fp16").requires_grad_(True)

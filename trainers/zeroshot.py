"""Zero-shot CLIP and prompt ensembling.

ZeroshotCLIP: Radford et al., ICML 2021, arXiv 2103.00020; templates of CoOp, arXiv 2109.01134.
Parity is tested in tests/golden/zeroshot. License of the official code: MIT (CLIP, CoOp).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Settings, never, one_of, setting
from dassl.config.pixels import IMAGENET_MEAN, IMAGENET_STD
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import (
    SELECTION,
    STORED_VIEWS,
    TRAINING,
    no_augmentation,
)
from dassl.features.views import INTERPOLATION
from trainers.common import FeatureTrainer, Method
from trainers.common.method import Names, State
from trainers.common.teachers.build import NORMS
from trainers.common.text.encode import zero_shot_classifier
from trainers.common.text.templates import full_templates, select_templates, single_template

UNTRAINED = "zero-shot CLIP trains and chooses nothing"


@dataclass(frozen=True)
class ZeroshotInput(Settings, section="INPUT"):
    """What the images are normalised with where a domain is left out."""

    teacher_norm: str = setting(
        "clip", "clip: CLIP's statistics | imagenet: the students'", one_of(*NORMS)
    )


@dataclass(frozen=True)
class EnsembleSettings(Settings, section="TRAINER.ZEROSHOTCLIP2"):
    """The templates."""

    templates: str = setting(
        "select",
        "select: the 7 templates of CLIP's notebook | full: its 80",
        one_of("select", "full"),
    )


class ZeroshotClassifier(Method):
    """t_c = normalise(mean_k normalise(encode_text(template_k(name_c)))); nothing is learned."""

    classifier: Tensor
    of_this_run = ("classifier",)

    def __init__(self, classifier: Tensor) -> None:
        """Args: classifier (C, D) unit rows."""
        super().__init__()
        self.register_buffer("classifier", classifier)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return self.classifier


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(FeatureTrainer):
    """One template per dataset, no training."""

    declares: tuple[type[Settings], ...] = (ZeroshotInput,)
    gpu_precision = "fp16"  # of the backbone, as in the official code
    defaults = {"OPTIM.MAX_EPOCH": 0}  # nothing is trained
    own_conditions = (
        never((*TRAINING, *SELECTION, *STORED_VIEWS, "MODEL.INIT_WEIGHTS"), UNTRAINED),
        never("INPUT.AUGMENT_ON_DEVICE", UNTRAINED),
        *no_augmentation(UNTRAINED),
    )
    unused_flags = {
        **FeatureTrainer.unused_flags,
        "--transforms": "nothing is trained",
        "--model-dir": "nothing is learned, so that a run leaves nothing to load",
        "--resume": "nothing is trained",
    }

    def labels_read(self, *, evaluates: bool = False) -> set[str]:
        """No training image enters."""
        return super().labels_read(evaluates=evaluates) - {"train"}

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        """The templates of the run's dataset."""
        return single_template(cfg)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        return ZeroshotClassifier(zero_shot_classifier(clip, classnames, cls.templates(cfg)))

    @classmethod
    def restore_method(cls, cfg: CfgNode, clip: CLIP, classnames: Names, state: State) -> Method:
        return ZeroshotClassifier(state["classifier"])

    def image_input(self) -> dict[str, Any]:
        """Where a domain is left out, images are seen as the students of that protocol see them.

        The whole image made square, INPUT.INTERPOLATION is the students'. INPUT.TEACHER_NORM says
        with whose statistics: CLIP's give the usual number, ImageNet's that of VL2V-ADiP's teacher.
        """
        own = super().image_input()
        if not _leaves_a_domain_out(self.cfg):
            return own
        own |= {"RESIZE": "squash", "INTERPOLATION": self.cfg.INPUT.INTERPOLATION or INTERPOLATION}
        if self.cfg.INPUT.TEACHER_NORM == "imagenet":
            own |= {"PIXEL_MEAN": IMAGENET_MEAN, "PIXEL_STD": IMAGENET_STD}
        return own

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        norm = cfg.INPUT.TEACHER_NORM
        if norm != "clip" and not _leaves_a_domain_out(cfg):
            raise ValueError(
                f"INPUT.TEACHER_NORM {norm} belongs to the protocol that leaves a domain out, and "
                f"{cfg.DATASET.NAME} has no domains. Leave it at clip."
            )


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """An ensemble of templates; everywhere except ImageNet the dataset's own one is appended."""

    declares = (EnsembleSettings, ZeroshotInput)

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        is_full = EnsembleSettings.of(cfg).templates == "full"
        templates = full_templates() if is_full else select_templates()
        return templates if cfg.DATASET.NAME == "ImageNet" else templates + single_template(cfg)


def _leaves_a_domain_out(cfg: CfgNode) -> bool:
    """Whether the dataset is one of domains, each of which is left out in turn."""
    name = cfg.DATASET.NAME
    is_known = name in DATASET_REGISTRY.registered_names()
    return is_known and hasattr(DATASET_REGISTRY.get(name), "list_domains")

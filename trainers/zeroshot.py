"""Zero-shot CLIP and prompt ensembling.

ZeroshotCLIP: Radford et al., ICML 2021, arXiv 2103.00020; templates of CoOp, arXiv 2109.01134.
Parity is tested in tests/golden/zeroshot. License of the official code: MIT (CLIP, CoOp).
"""

from collections.abc import Sequence

from torch import Tensor
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY
from trainers.common import FeatureTrainer, Method
from trainers.common.prompts import zero_shot_classifier
from trainers.common.templates import full_templates, select_templates, single_template


class ZeroshotClassifier(Method):
    """t_c = normalise(mean_k normalise(encode_text(template_k(name_c)))); nothing is learned."""

    def __init__(self, clip: CLIP, classnames: Sequence[str], templates: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("classifier", zero_shot_classifier(clip, classnames, templates))

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return self.classifier

    def import_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
        """The classifier belongs to this run's class names: nothing of the file is used."""
        return self.state_dict()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(FeatureTrainer):
    """One template per dataset, no training."""

    uses_training_images = False

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        """The templates of the run's dataset."""
        return single_template(cfg)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        return ZeroshotClassifier(clip, classnames, cls.templates(cfg))

    @staticmethod
    def default_cfg() -> CfgNode:
        """Nothing is trained."""
        return CN({"OPTIM": CN({"MAX_EPOCH": 0})})


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """An ensemble of templates; everywhere except ImageNet the dataset's own one is appended."""

    node = "ZEROSHOTCLIP2"

    @staticmethod
    def default_cfg() -> CfgNode:
        cfg = ZeroshotCLIP.default_cfg()
        # select: the 7 templates of CLIP's notebook | full: its 80 templates
        cfg.TRAINER = CN({"ZEROSHOTCLIP2": CN({"TEMPLATES": "select"})})
        return cfg

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        if cfg.TRAINER.ZEROSHOTCLIP2.TEMPLATES not in ("select", "full"):
            raise ValueError(
                f"TRAINER.ZEROSHOTCLIP2.TEMPLATES is {cfg.TRAINER.ZEROSHOTCLIP2.TEMPLATES!r}; "
                "expected select or full."
            )

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        is_full = cfg.TRAINER.ZEROSHOTCLIP2.TEMPLATES == "full"
        templates = full_templates() if is_full else select_templates()
        return templates if cfg.DATASET.NAME == "ImageNet" else templates + single_template(cfg)

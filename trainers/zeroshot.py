"""Zero-shot CLIP and prompt ensembling.

ZeroshotCLIP: Radford et al., ICML 2021, arXiv 2103.00020; templates of CoOp, arXiv 2109.01134.
Parity is tested in tests/golden/zeroshot. License of the official code: MIT (CLIP, CoOp).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY
from trainers.common import FeatureTrainer, Method
from trainers.common.domainbed_transforms import WholeImage
from trainers.common.encoder import ClipEncoder
from trainers.common.feature_bank import FeatureBank
from trainers.common.prompts import zero_shot_classifier
from trainers.common.templates import full_templates, select_templates, single_template

logger = logging.getLogger(__name__)


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
    unused_flags = {
        **FeatureTrainer.unused_flags,
        "--transforms": "nothing is trained",
        "--model-dir": "nothing is learned, so that a run leaves nothing to load",
    }

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        """The templates of the run's dataset."""
        return single_template(cfg)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        return ZeroshotClassifier(clip, classnames, cls.templates(cfg))

    def build_bank(self) -> FeatureBank:
        """Where a domain is left out, images are seen as the students of that protocol see them.

        The whole image made square, normalised with INPUT.PIXEL_MEAN and PIXEL_STD: CLIP's
        statistics give the usual number, ImageNet's that of VL2V-ADiP's teacher.
        """
        bank, node = super().build_bank(), self.cfg.INPUT
        if not hasattr(self.dm.dataset, "all_domains"):
            return bank
        logger.info("Images: whole, mean %s, std %s", list(node.PIXEL_MEAN), list(node.PIXEL_STD))
        view = WholeImage(bank.augmentation.size, node.INTERPOLATION)
        return FeatureBank(
            ClipEncoder(self.clip, mean=node.PIXEL_MEAN, std=node.PIXEL_STD),
            replace(bank.augmentation, test=view),
            workers=self.cfg.DATALOADER.NUM_WORKERS,
            device=self.device,
            skip_bad_images=self.cfg.DATALOADER.SKIP_BAD_IMAGES,
        )

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

"""The trainers of TaskRes and of its enhanced base."""

import logging
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import Condition, at_least, never, only_if
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.needed import NeededFile
from dassl.utils import write_checkpoint
from trainers.common import FeatureTrainer, Method
from trainers.common.text.class_words import words_of
from trainers.common.text.encode import pre_projection_features
from trainers.common.text.templates import ensemble_templates

from .base import (
    ProjectionTuning,
    enhanced_base,
    enhanced_base_path,
    read_enhanced_base,
    regular_base,
)
from .method import TaskResidual

logger = logging.getLogger(__name__)
NO_BASE_FILE = ("", "none", "train")  # ENHANCED_BASE values that are no path


def default_cfg() -> CfgNode:
    """The node TRAINER.TaskRes."""
    node = CN()
    node.RESIDUAL_SCALE = 1.0  # alpha; the recipes set 0.5 (OxfordFlowers 1.0)
    node.ENHANCED_BASE = "none"  # none | path of a tuned text projection | train: tune it first
    node.BASE_LR = 2e-4  # learning rate of that first stage; ImageNet 2e-5
    node.BASE_EPOCHS = 50  # length of that first stage
    node.VARIANT = "text"  # text (the paper's) | image | both
    node.LEARNABLE_ALPHA = False  # train alpha with the residuals
    node.REPLACE_UNDERSCORES = False  # class names are used verbatim in the official code
    node.PREC = "fp32"  # fp32 | amp | fp16
    return CN({"TRAINER": CN({"TaskRes": node})})


@TRAINER_REGISTRY.register()
class TaskRes(FeatureTrainer):
    """Trains the residual of the base classifier by cross-entropy."""

    node = "TaskRes"
    default_cfg = staticmethod(default_cfg)
    varies_at_test = FeatureTrainer.varies_at_test | {"ENHANCED_BASE"}  # of classes not trained on
    ranges = {
        "TRAINER.TaskRes.BASE_LR": at_least(0),
        "TRAINER.TaskRes.BASE_EPOCHS": at_least(1),
    }

    @classmethod
    def conditions(cls) -> list[Condition]:
        stage = ("TRAINER.TaskRes.BASE_LR", "TRAINER.TaskRes.BASE_EPOCHS")
        return [
            only_if(stage, "TRAINER.TaskRes.ENHANCED_BASE", "train"),
            *super().conditions(),
        ]

    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The tuned text projection, if there is one to start from."""
        path = cfg.TRAINER.TaskRes.ENHANCED_BASE
        if path in NO_BASE_FILE:
            return []
        return [NeededFile(f"Enhanced base {path}", lambda: read_enhanced_base(path))]

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.TaskRes
        templates = ensemble_templates(cfg)
        if node.ENHANCED_BASE in NO_BASE_FILE:
            base = regular_base(
                clip, classnames, templates, replace_underscores=node.REPLACE_UNDERSCORES
            )
        else:
            base = enhanced_base(
                clip,
                classnames,
                templates,
                read_enhanced_base(node.ENHANCED_BASE),
                replace_underscores=node.REPLACE_UNDERSCORES,
            )
        return TaskResidual(
            base.float(),
            alpha=node.RESIDUAL_SCALE,
            variant=node.VARIANT,
            learn_alpha=node.LEARNABLE_ALPHA,
        )

    @classmethod
    def class_words(cls, cfg: CfgNode, classname: str) -> str:
        return words_of(classname, replace_underscores=cfg.TRAINER.TaskRes.REPLACE_UNDERSCORES)

    def before_train(self) -> None:
        """Tune the text projection first where ENHANCED_BASE is train."""
        if self.settings.ENHANCED_BASE == "train":
            path = self._train_base()
            base = enhanced_base(
                self.clip,
                self.classnames,
                ensemble_templates(self.cfg),
                read_enhanced_base(path),
                replace_underscores=self.settings.REPLACE_UNDERSCORES,
            )
            self.method.base_text_features.copy_(base)
        super().before_train()

    def _train_base(self) -> Path:
        """The first stage in <output>/base, resumed or reused if it is there; its file."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.TRAINER.NAME, cfg.OUTPUT_DIR = "TaskResBase", str(Path(self.output_dir) / "base")
        cfg.TRAINER.TaskRes.ENHANCED_BASE = "none"
        cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH = self.settings.BASE_LR, self.settings.BASE_EPOCHS
        cfg.freeze()
        path = enhanced_base_path(cfg, cfg.OUTPUT_DIR)
        if not path.is_file():
            logger.info("Tuning the text projection first, in %s.", cfg.OUTPUT_DIR)
            self.sibling(TaskResBase, cfg).train()
        return path

    @classmethod
    def prediction_cfg(cls, cfg: CfgNode) -> CfgNode:
        """The checkpoint holds the base: no enhanced-base file is needed to predict."""
        cfg.TRAINER.TaskRes.ENHANCED_BASE = "none"
        return cfg


@TRAINER_REGISTRY.register()
class TaskResBase(FeatureTrainer):
    """Tunes CLIP's text projection on the task: the first stage of TaskRes with enhanced base.

    Its result is a file that TRAINER.TaskRes.ENHANCED_BASE accepts, like the official ones.
    """

    node = "TaskRes"
    unused_flags = {
        **FeatureTrainer.unused_flags,
        "--enhanced-base": "it is what trains such a base",
    }
    default_cfg = staticmethod(default_cfg)
    class_words = TaskRes.class_words

    @classmethod
    def conditions(cls) -> list[Condition]:
        residual = ("RESIDUAL_SCALE", "VARIANT", "LEARNABLE_ALPHA", "ENHANCED_BASE")
        stage = ("BASE_LR", "BASE_EPOCHS")
        return [
            never((f"TRAINER.TaskRes.{key}" for key in residual), "the base has no residual yet"),
            never(
                (f"TRAINER.TaskRes.{key}" for key in stage),
                "it is for TaskRes with its base; here OPTIM.LR and OPTIM.MAX_EPOCH count",
            ),
            *super().conditions(),
        ]

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        hidden = pre_projection_features(
            clip,
            classnames,
            ensemble_templates(cfg),
            replace_underscores=cfg.TRAINER.TaskRes.REPLACE_UNDERSCORES,
        )
        return ProjectionTuning(hidden.float(), clip.text_projection.float())

    def after_train(self) -> None:
        """Write the enhanced base beside the checkpoints."""
        super().after_train()
        path = enhanced_base_path(self.cfg, self.output_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        weight = self.method.weight.detach().cpu()
        write_checkpoint({"state_dict": {"weight": weight}, "epoch": self.max_epoch}, path)

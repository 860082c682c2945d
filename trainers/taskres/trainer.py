"""The trainers of TaskRes and of its enhanced base."""

import logging
from collections.abc import Sequence
from pathlib import Path

from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import changed, never
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.needed import NeededFile
from dassl.utils import ranks, write_checkpoint
from trainers.common import FeatureTrainer, Method
from trainers.common.method import Names, State
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
from .settings import TaskResSettings

logger = logging.getLogger(__name__)
OF_RESIDUAL = ("residual_scale", "variant", "learnable_alpha", "enhanced_base")  # settings
OF_STAGE = ("base_lr", "base_epochs")


@TRAINER_REGISTRY.register()
class TaskRes(FeatureTrainer):
    """Trains the residual of the base classifier by cross-entropy."""

    method: TaskResidual
    declares = (TaskResSettings,)

    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The tuned text projection, if there is one to start from."""
        path = TaskResSettings.of(cfg).base_file
        return (
            [NeededFile(f"Enhanced base {path}", lambda: read_enhanced_base(path))] if path else []
        )

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        return ensemble_templates(cfg)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        settings = TaskResSettings.of(cfg)
        templates, words = cls.templates(cfg), settings.words
        if path := settings.base_file:
            base = enhanced_base(clip, classnames, templates, read_enhanced_base(path), **words)
        else:
            base = regular_base(clip, classnames, templates, **words)
        return TaskResidual(base.float(), settings)

    @classmethod
    def restore_method(cls, cfg: CfgNode, clip: CLIP, classnames: Names, state: State) -> Method:
        """The checkpoint holds the base: nothing is encoded, no enhanced-base file is read."""
        return TaskResidual(state["base_text_features"], TaskResSettings.of(cfg))

    @classmethod
    def class_words(cls, cfg: CfgNode, classname: str) -> str:
        return words_of(classname, **TaskResSettings.of(cfg).words)

    def before_train(self) -> None:
        """Tune the text projection first where ENHANCED_BASE is train."""
        if self.settings.enhanced_base == "train":
            weight, templates = read_enhanced_base(self._train_base()), self.templates(self.cfg)
            words = self.settings.words
            base = enhanced_base(self.clip, self.classnames, templates, weight, **words)
            self.method.base_text_features.copy_(base)
        super().before_train()

    def _train_base(self) -> Path:
        """The first stage in <output>/base, resumed or reused if it is there; its file."""
        values = {
            "TRAINER.NAME": "TaskResBase",
            "TRAINER.TaskRes.ENHANCED_BASE": "none",
            "OUTPUT_DIR": str(Path(self.output_dir) / "base"),
            "OPTIM.LR": self.settings.base_lr,
            "OPTIM.MAX_EPOCH": self.settings.base_epochs,
        }
        cfg = changed(self.cfg, values)
        path = enhanced_base_path(cfg, cfg.OUTPUT_DIR)
        if not path.is_file():
            logger.info("Tuning the text projection first, in %s.", cfg.OUTPUT_DIR)
            self.sibling(TaskResBase, cfg).train()
        return path


@TRAINER_REGISTRY.register()
class TaskResBase(FeatureTrainer):
    """Tunes CLIP's text projection on the task: the first stage of TaskRes with enhanced base.

    Its result is a file that TRAINER.TaskRes.ENHANCED_BASE accepts, like the official ones.
    """

    method: ProjectionTuning
    unused_flags = {
        **FeatureTrainer.unused_flags,
        "--enhanced-base": "it is what trains such a base",
    }
    declares = (TaskResSettings,)
    class_words = TaskRes.class_words
    own_conditions = (
        never(map(TaskResSettings.key, OF_RESIDUAL), "the base has no residual yet"),
        never(
            map(TaskResSettings.key, OF_STAGE),
            "it is for TaskRes with its base; here OPTIM.LR and OPTIM.MAX_EPOCH count",
        ),
    )

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        words = TaskResSettings.of(cfg).words
        hidden = pre_projection_features(clip, classnames, ensemble_templates(cfg), **words)
        bias = clip.text_projection_bias
        return ProjectionTuning(
            hidden.float(), clip.text_projection.float(), None if bias is None else bias.float()
        )

    def after_train(self) -> None:
        """Write the enhanced base beside the checkpoints."""
        super().after_train()
        path = enhanced_base_path(self.cfg, self.output_dir)
        weight = self.method.weight.detach().cpu()
        content = {"state_dict": {"weight": weight}, "epoch": self.max_epoch}
        ranks.written(lambda: write_checkpoint(content, path))

"""TaskRes: task residual for tuning vision-language models.

Yu, Lu, Jin, Chen, Wang: Task Residual for Tuning Vision-Language Models, CVPR 2023, arXiv
2211.10277. Parity is tested in tests/golden/taskres. The official code states no license.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import at_least
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import load_checkpoint, write_checkpoint
from trainers.common import FeatureTrainer, Method
from trainers.common.class_words import words_of
from trainers.common.loading import select_rows
from trainers.common.prompts import pre_projection_features, template_features
from trainers.common.templates import ensemble_templates

logger = logging.getLogger(__name__)
VARIANTS = ("text", "image", "both")
NO_BASE_FILE = ("", "none", "train")  # ENHANCED_BASE values that are no path


class TaskResidual(Method):
    """t' = t + alpha * x, f' = f + alpha * z; logits = s * normalise(f') normalise(t')^T.

    t (C, D) is the frozen base classifier, not normalised; x (C, D) is learned from zero (variants
    text and both), z (1, D) likewise (variants image and both). alpha is fixed or learned.
    """

    def __init__(
        self,
        base_text_features: Tensor,
        *,
        alpha: float,
        variant: str = "text",
        learn_alpha: bool = False,
    ) -> None:
        """Start at the base classifier.

        Args:
            base_text_features: (C, D), not normalised.
            alpha: residual scale; TRAINER.TaskRes.RESIDUAL_SCALE.
            variant: text (the paper's), image or both.
            learn_alpha: train alpha with the residuals.

        Raises:
            ValueError: for an unknown variant.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(
                f"TRAINER.TaskRes.VARIANT is {variant!r}; expected one of {', '.join(VARIANTS)}."
            )
        self.register_buffer("base_text_features", base_text_features)
        scale = torch.tensor(float(alpha))
        if learn_alpha:
            self.alpha = nn.Parameter(scale)
        else:
            self.register_buffer("alpha", scale, persistent=False)
        tunes_text, tunes_image = variant != "image", variant != "text"
        zeros = torch.zeros_like(base_text_features)
        self.text_feature_residuals = nn.Parameter(zeros) if tunes_text else None
        self.image_feature_residual = nn.Parameter(zeros[:1].clone()) if tunes_image else None

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows of t + alpha * x."""
        if self.text_feature_residuals is None:
            return F.normalize(self.base_text_features, dim=-1)
        tuned = self.base_text_features + self.alpha * self.text_feature_residuals
        return F.normalize(tuned, dim=-1)

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D) -> (B, D), unit rows of f + alpha * z."""
        if self.image_feature_residual is None:
            return F.normalize(raw_image_features, dim=-1)
        return F.normalize(raw_image_features + self.alpha * self.image_feature_residual, dim=-1)

    def import_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
        """Rows of this run's classes; a class without a residual keeps its own base and x = 0.

        Source: taskres section 5 (domain generalisation, base-to-new).
        """
        count = len(state["base_text_features"]) if "base_text_features" in state else None
        if source_classes is None or list(source_classes) == list(classes):
            return state
        if count != len(source_classes):  # an official file that was trained on fewer classes
            return state
        sources = set(source_classes)
        known = [c for c, name in enumerate(classes) if name in sources]
        source = select_rows(source_classes, [classes[c] for c in known])
        adapted, own = dict(state), self.state_dict()
        for key in ("base_text_features", "text_feature_residuals"):
            rows = state[key][source] if key in state else None
            if rows is not None and key in own and rows.shape[1] == own[key].shape[1]:
                adapted[key] = own[key].clone()
                adapted[key][known] = rows.to(adapted[key])
            elif rows is not None:
                adapted[key] = rows  # loading says what does not fit
        return adapted


class ProjectionTuning(Method):
    """t_c = W h_c; h_c (C, w) is frozen, W (D, w) starts at CLIP's text projection and is learned.

    Source: taskres section 1, "How to produce an enhanced base" (the recipe is ours).
    """

    def __init__(self, pre_projection: Tensor, text_projection: Tensor) -> None:
        """Args: pre_projection (C, w), mean over templates; text_projection (w, D)."""
        super().__init__()
        self.register_buffer("pre_projection", pre_projection, persistent=False)
        self.weight = nn.Parameter(text_projection.detach().t().contiguous().clone())

    def base_text_features(self) -> Tensor:
        """(C, D), not normalised."""
        return self.pre_projection @ self.weight.t()

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.base_text_features(), dim=-1)


def regular_base(
    clip: CLIP, classnames: Sequence[str], templates: Sequence[str], *, replace_underscores: bool
) -> Tensor:
    """(C, D): plain mean over templates of un-normalised text features."""
    features = template_features(
        clip, classnames, templates, replace_underscores=replace_underscores
    )
    return features.mean(dim=0)


def enhanced_base(
    clip: CLIP,
    classnames: Sequence[str],
    templates: Sequence[str],
    weight: Tensor,
    *,
    replace_underscores: bool,
) -> Tensor:
    """The base classifier with CLIP's text projection replaced by ``weight`` (D, w).

    Raises:
        ValueError: if ``weight`` does not fit the backbone.
    """
    hidden = pre_projection_features(
        clip, classnames, templates, replace_underscores=replace_underscores
    )
    expected = tuple(reversed(clip.text_projection.shape))
    if tuple(weight.shape) != expected:
        raise ValueError(
            f"The enhanced base holds a weight of shape {tuple(weight.shape)}, this backbone needs "
            f"{expected}. Train one for it: bash scripts/taskres/enhanced_base.sh DATASET SHOTS."
        )
    return hidden @ weight.to(hidden).t()


def read_enhanced_base(path: str | Path) -> Tensor:
    """The (D, w) weight of an enhanced-base file, official or ours.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it holds no ``weight``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"No enhanced base at {path} (TRAINER.TaskRes.ENHANCED_BASE, --enhanced-base). Train "
            "one with: bash scripts/taskres/enhanced_base.sh DATASET SHOTS"
        )
    state = load_checkpoint(str(path))["state_dict"]
    if list(state) != ["weight"]:
        raise ValueError(
            f"{path} is no enhanced base: it holds {', '.join(state)}, not one 'weight'."
        )
    return state["weight"]


def enhanced_base_path(cfg: CfgNode, root: str | Path) -> Path:
    """<root>/strong_base/<DatasetName>/<backbone>_<k>shots/model.pth.tar, as the official code."""
    backbone = cfg.MODEL.BACKBONE.NAME.lower().replace("/", "").replace("-", "")
    folder = f"{backbone}_{cfg.DATASET.NUM_SHOTS}shots"
    return Path(root) / "strong_base" / cfg.DATASET.NAME / folder / "model.pth.tar"


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
            TaskResBase(cfg).train()
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

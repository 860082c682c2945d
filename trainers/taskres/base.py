"""Base classifiers of TaskRes: regular, and enhanced by a tuned text projection."""

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.utils import load_checkpoint
from dassl.utils.checkpoint import state_of
from trainers.common import Method
from trainers.common.text.encode import pre_projection_features, template_features


class ProjectionTuning(Method):
    """t_c = W h_c + b; h_c (C, w) is frozen, W (D, w) starts at CLIP's projection and is learned.

    b is the frozen bias of the projection, where a backbone has one (SigLIP).

    Source: taskres section 1, "How to produce an enhanced base" (the recipe is ours).
    """

    pre_projection: Tensor
    bias: Tensor | None

    def __init__(
        self, pre_projection: Tensor, text_projection: Tensor, bias: Tensor | None = None
    ) -> None:
        """Args: pre_projection (C, w), mean over templates; text_projection (w, D); bias (D,)."""
        super().__init__()
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("pre_projection", pre_projection, persistent=False)
        self.weight = nn.Parameter(text_projection.detach().t().contiguous().clone())

    def base_text_features(self) -> Tensor:
        """(C, D), not normalised."""
        return F.linear(self.pre_projection, self.weight, self.bias)

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
    return F.linear(hidden, weight.to(hidden), clip.text_projection_bias)


def read_enhanced_base(path: str | Path) -> Tensor:
    """The (D, w) weight of an enhanced-base file, official or ours.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it holds no ``weight``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"No enhanced base at {path} (TRAINER.TaskRes.ENHANCED_BASE, --enhanced-base). Train "
            "one with: bash scripts/taskres/enhanced_base.sh DATASET SHOTS. Official files: see "
            "DATASETS.md, section Enhanced bases."
        )
    state = state_of(load_checkpoint(str(path)), ["weight"])
    if list(state) != ["weight"]:
        raise ValueError(
            f"{path} is not an enhanced base: it holds {', '.join(state)}, not one 'weight'."
        )
    return state["weight"]


def enhanced_base_path(cfg: CfgNode, root: str | Path) -> Path:
    """<root>/strong_base/<DatasetName>/<backbone>_<k>shots/model.pth.tar, as the official code."""
    backbone = cfg.MODEL.BACKBONE.NAME.lower().replace("/", "").replace("-", "")
    folder = f"{backbone}_{cfg.DATASET.NUM_SHOTS}shots"
    return Path(root) / "strong_base" / cfg.DATASET.NAME / folder / "model.pth.tar"

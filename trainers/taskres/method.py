"""TaskRes: task residual for tuning vision-language models.

Yu, Lu, Jin, Chen, Wang: Task Residual for Tuning Vision-Language Models, CVPR 2023, arXiv
2211.10277. Parity is tested in tests/golden/taskres. The official code states no license.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from trainers.common import Method
from trainers.common.checkpoints import select_rows

VARIANTS = ("text", "image", "both")


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

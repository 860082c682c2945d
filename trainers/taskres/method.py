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

from .settings import TaskResSettings


class TaskResidual(Method):
    """t' = t + alpha * x, f' = f + alpha * z; logits = s * normalise(f') normalise(t')^T.

    t (C, D) is the frozen base classifier, not normalised; x (C, D) is learned from zero (variants
    text and both), z (1, D) likewise (variants image and both). alpha is fixed or learned.
    """

    def __init__(self, base_text_features: Tensor, settings: TaskResSettings) -> None:
        """Start at the base classifier (C, D), not normalised."""
        super().__init__()
        self.register_buffer("base_text_features", base_text_features)
        alpha = torch.tensor(float(settings.residual_scale))
        if settings.learnable_alpha:
            self.alpha = nn.Parameter(alpha)
        else:
            self.register_buffer("alpha", alpha, persistent=False)
        x = torch.zeros_like(base_text_features)
        self.text_feature_residuals = None if settings.variant == "image" else nn.Parameter(x)
        z = torch.zeros_like(base_text_features[:1])
        self.image_feature_residual = None if settings.variant == "text" else nn.Parameter(z)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows of t + alpha * x."""
        t = self.base_text_features
        if self.text_feature_residuals is not None:
            t = t + self.alpha * self.text_feature_residuals  # t' = t + alpha * x
        return F.normalize(t, dim=-1)

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D) -> (B, D), unit rows of f + alpha * z."""
        f = raw_image_features
        if self.image_feature_residual is not None:
            f = f + self.alpha * self.image_feature_residual  # f' = f + alpha * z
        return F.normalize(f, dim=-1)

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

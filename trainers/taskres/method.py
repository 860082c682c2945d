"""TaskRes: task residual for tuning vision-language models.

Yu, Lu, Jin, Chen, Wang: Task Residual for Tuning Vision-Language Models, CVPR 2023, arXiv
2211.10277. Parity is tested in tests/golden/taskres. The official code states no license.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from trainers.common import Method

from .settings import TaskResSettings


class TaskResidual(Method):
    """t' = t + alpha * x, f' = f + alpha * z; logits = s * normalise(f') normalise(t')^T.

    t (C, D) is the frozen base classifier, not normalised; x (C, D) is learned from zero (variants
    text and both), z (1, D) likewise (variants image and both). alpha is fixed or learned.
    """

    base_text_features: Tensor
    alpha: Tensor  # a parameter where it is learned
    # spec taskres 5: a class without a residual has its own base and x = 0
    per_known_class = ("base_text_features", "text_feature_residuals")

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

    def exported(self, clip: CLIP) -> dict[str, Tensor]:
        """The classifier t', and alpha * z where there is one."""
        tensors = super().exported(clip)
        if self.image_feature_residual is not None:
            tensors["image_residual"] = self.alpha * self.image_feature_residual
        return tensors

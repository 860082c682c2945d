"""ZS-LP and CLAP: a linear probe that starts at, and is held near, the zero-shot prototypes.

Silva-Rodriguez, Hajimiri, Ben Ayed, Dolz: A Closer Look at the Few-Shot Adaptation of Large
Vision-Language Models, CVPR 2024, arXiv 2312.12730. Its formulas are tested in
tests/trainers/test_clap.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from trainers.common import Method, cross_entropy_losses

from .settings import CLAPSettings


class Prototypes(Method):
    """logits = exp(log_logit_scale) * normalise(f) normalise(w)^T;  w (C, D) is learned.

    loss = CE + mean_c lambda_c |w_c - t_c|^2 (CLAP, constraint l2) or CE alone (ZS-LP, none).
    w starts at t (C, D), the mean un-normalised text feature of each class, which stays frozen like
    the multipliers lambda (C,).
    """

    base_text_features: Tensor
    multipliers: Tensor
    per_class = ("base_text_features", "multipliers", "prototypes")

    def __init__(self, base_text_features: Tensor, settings: CLAPSettings) -> None:
        """Start at the base classifier (C, D), not normalised."""
        super().__init__()
        self.constraint = settings.constraint
        self.register_buffer("base_text_features", base_text_features)
        self.register_buffer("multipliers", base_text_features.new_zeros(len(base_text_features)))
        self.prototypes = nn.Parameter(base_text_features.clone())

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.prototypes, dim=-1)

    def penalty(self) -> Tensor:
        """mean_c lambda_c |w_c - t_c|^2."""
        squared = (self.prototypes - self.base_text_features).square().sum(dim=-1)
        return (self.multipliers * squared).mean()

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy "loss_ce", and for l2 the penalty "loss_l2"."""
        features = self.image_features(raw_image_features)
        losses = cross_entropy_losses(self.logits(clip, features, self.text_features(clip)), labels)
        if self.constraint == "none":
            return losses
        penalty = self.penalty()
        total = losses["loss"] + penalty  # CE + mean_c lambda_c |w_c - t_c|^2
        return {"loss": total, "loss_ce": losses["loss"], "loss_l2": penalty, "acc": losses["acc"]}

    @torch.no_grad()
    def zero_shot_confidence(self, clip: CLIP, raw_image_features: Tensor) -> Tensor:
        """(B, D) -> (B, C) zero-shot probabilities."""
        text_features = F.normalize(self.base_text_features, dim=-1)
        features = self.image_features(raw_image_features)
        return self.logits(clip, features, text_features).softmax(dim=-1)


def class_multipliers(probabilities: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Add a block of zero-shot probabilities (B, C) of labels (B,) to sums and counts (C,).

    lambda_c = sums / counts: the mean probability of class c over the rows of class c.
    """
    own = probabilities.gather(1, labels[:, None]).flatten()
    sums.index_add_(0, labels, own)
    counts.index_add_(0, labels, torch.ones_like(own))

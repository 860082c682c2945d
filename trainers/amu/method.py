"""AMU-Tuning: a logit bias on zero-shot CLIP from the features of a second, frozen network.

Tang, Lin, Wang, Zhu, Hu: AMU-Tuning: Effective Logit Bias for CLIP-based Few-shot Learning,
CVPR 2024. Parity is tested in tests/golden/amu. The official code states no license.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from dassl.metrics import compute_accuracy
from trainers.common import Method

from .settings import AMUSettings
from .uncertainty import standardise, uncertainty_factor


class AuxiliaryBias(Method):
    """s = s0 + alpha * r * z;  s0 = scale * f W_c^T,  z = zscore_c(a W^T),  r = uncertainty(s0).

    f (B, D_c) and a (B, D_a) are unit rows of CLIP's and the auxiliary network's features, side by
    side in one tensor (B, D_c + D_a). W = ``fc.weight`` (C, D_a) is learned, from the class means
    of the shots' features; W_c (C, D_c) is the frozen text classifier.
    """

    clip_classifier: Tensor
    per_class = ("fc.weight",)

    def __init__(self, clip_classifier: Tensor, aux_dim: int, settings: AMUSettings) -> None:
        """Start with random W; see ``initial_weight``.

        Args:
            clip_classifier: (C, D_c) unit rows.
            aux_dim: D_a.

        Raises:
            ValueError: for a single class, over which no score can be standardised.
        """
        super().__init__()
        if len(clip_classifier) < 2:
            raise ValueError(
                "AMU standardises the auxiliary scores over the classes of a row, which takes at "
                f"least 2 classes; there is {len(clip_classifier)}."
            )
        self.register_buffer("clip_classifier", clip_classifier, persistent=False)
        self.fc = nn.Linear(aux_dim, len(clip_classifier), bias=False)
        self.settings, self.alpha = settings, settings.alpha

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D_c) unit rows."""
        return self.clip_classifier

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D_c + D_a) raw -> the same shape, each of the two parts with unit rows."""
        dim = self.clip_classifier.shape[1]
        parts = raw_image_features[:, :dim], raw_image_features[:, dim:]
        return torch.cat([F.normalize(part, dim=-1) for part in parts], dim=1)

    def clip_logits(self, clip: CLIP, features: Tensor, classifier: Tensor) -> Tensor:
        """(B, D_c), (C, D_c), unit rows -> s0 (B, C), float32."""
        scale = self.settings.clip_scale or clip.logit_scale.detach().exp()
        return (scale * features @ classifier.t()).float()

    def aux_logits(self, features: Tensor) -> Tensor:
        """z (B, C): scores of unit rows (B, D_a), standardised over the classes of each row."""
        return standardise(self.fc(features))

    def factor(self, clip_logits: Tensor) -> Tensor:
        """r (B, 1)."""
        return uncertainty_factor(
            clip_logits, self.settings.uncent_type, self.settings.uncent_power
        )

    def branches(
        self, clip: CLIP, features: Tensor, classifier: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D_c + D_a) -> s0 (B, C), r (B, 1), z (B, C)."""
        dim = classifier.shape[1]
        with torch.no_grad():
            clip_logits = self.clip_logits(clip, features[:, :dim], classifier)
            factor = self.factor(clip_logits)
        return clip_logits, factor, self.aux_logits(features[:, dim:])

    def logits(self, clip: CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, D_c + D_a), (C, D_c) -> fused logits s (B, C)."""
        clip_logits, factor, aux_logits = self.branches(clip, image_features, text_features)
        return torch.addcmul(clip_logits, factor, aux_logits, value=self.alpha)  # s0 + alpha r z

    def exported(self, clip: CLIP) -> dict[str, Tensor]:
        """W_c, W, alpha and the exponent of r, which is 0 for r = 1.

        Raises:
            ValueError: r is of another kind than a bundle's.
        """
        kind, scale = self.settings.uncent_type, self.settings.clip_scale
        if kind not in ("moment", "none"):
            raise ValueError(
                f"A bundle holds the uncertainties moment and none; TRAINER.AMU.UNCENT_TYPE is "
                f"{kind}. Write a program: --output FILE.pt2."
            )
        return {
            "weight": self.clip_classifier,
            "scale": torch.tensor(scale) if scale else clip.logit_scale.exp(),
            "auxiliary_weight": self.fc.weight,
            "alpha": torch.tensor(float(self.alpha)),
            "power": torch.tensor(self.settings.uncent_power if kind == "moment" else 0.0),
        }

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """loss = lambda CE(s, y) + (1 - lambda) CE(z, y), and both branches."""
        features = self.image_features(raw_image_features)
        clip_logits, factor, aux = self.branches(clip, features, self.clip_classifier)
        fused = torch.addcmul(clip_logits, factor, aux, value=self.alpha)  # s0 + alpha r z
        loss_merge, loss_aux = F.cross_entropy(fused, labels), F.cross_entropy(aux, labels)
        lambda_ = self.settings.lambda_merge
        return {
            "loss": lambda_ * loss_merge + (1 - lambda_) * loss_aux,  # CE(s, y), CE(z, y)
            "loss_merge": loss_merge,
            "loss_aux": loss_aux,
            "factor": factor.mean(),
            "acc": compute_accuracy(fused, labels)[0],
            "acc_aux": compute_accuracy(aux, labels)[0],
        }

    # ----------------------------------------------------------------- evaluation
    @torch.no_grad()
    def constants(self, clip: CLIP, raw_image_features: Tensor) -> list[Tensor]:
        """What does not depend on W: [s0 (n, C), alpha * r (n, 1), a (n, D_a)]."""
        dim = self.clip_classifier.shape[1]
        features = self.image_features(raw_image_features)
        clip_logits = self.clip_logits(clip, features[:, :dim], self.clip_classifier)
        factor = self.factor(clip_logits).mul_(self.alpha)
        return [clip_logits, factor, features[:, dim:].clone()]

    @torch.no_grad()
    def fuse(self, constants: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """``constants`` of n rows -> (s up to a constant per row, (n,) classes the bias prefers).

        The mean of the z-score shifts all classes of a row alike: it is left out here.
        """
        clip_logits, factor, features = constants
        scores = self.fc(features)
        mean = scores.mean(dim=-1, keepdim=True)
        std = torch.linalg.vector_norm(scores - mean, dim=-1, keepdim=True)
        factor = factor * (scores.shape[-1] - 1) ** 0.5 / std
        preferred = scores.argmax(dim=-1)
        return torch.addcmul(clip_logits, scores, factor), preferred


def average_views(raw_views: Tensor) -> Tensor:
    """Raw features (E, N, D) of E passes -> unit rows (N, D) of their mean."""
    return F.normalize(raw_views.mean(dim=0), dim=-1)


def initial_weight(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """W0[c] = (C / N) * sum over the shots of class c; not normalised afterwards.

    Args:
        features: (N, D) unit rows.
        labels: (N,).
        num_classes: C.

    Returns:
        (C, D). The divisor is the average number of shots per class, also where it varies.
    """
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return sums * (num_classes / len(labels))

"""The classifier that step-based trainers learn: student, projection, head.

logits = h(P(S(x))). One class serves distillation (P affine, h the text head) and the baselines (P
the identity or affine, h linear); which parts learn is up to the trainer. It is what is deployed:
no teacher is needed to predict. Specification: vl2v_adip, sections 1 and 6.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.common.students import Student

OFFICIAL_PREFIXES = {
    "featurizer.network.": "student.network.",
    "proj_lyr.": "projection.",
    "classifier.": "head.",
}
OFFICIAL_DUPLICATE = "clip_cls."  # a second copy of the text head in official files


class TextHead(nn.Module):
    """h(v) = (v / ||v||) Z^T + b with Z = s [t_1 .. t_C]: the scaled cosine to each class text.

    Args:
        text_features: (C, D) unit rows.
        scale: s, the exponentiated logit scale of the teacher.
    """

    def __init__(self, text_features: Tensor, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(text_features.detach().clone() * scale)  # (C, D)
        self.bias = nn.Parameter(text_features.new_zeros(len(text_features)))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, D), any norm -> (B, C) logits, scaled."""
        return F.linear(F.normalize(embeddings, dim=-1), self.weight, self.bias)


class StudentClassifier(nn.Module):
    """logits = head(projection(dropout(student(x)))).

    Args:
        student: (B, 3, H, W) -> (B, n).
        projection: (B, n) -> (B, D); an Identity where a method has none.
        head: (B, D) -> (B, C).
        dropout: probability, after the student.
    """

    PARTS = ("student", "projection", "head")

    def __init__(
        self, student: Student, projection: nn.Module, head: nn.Module, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.student = student
        self.projection = projection
        self.head = head
        self.dropout = nn.Dropout(dropout)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D), not normalised."""
        return self.project(self.student(images))

    def project(self, features: Tensor) -> Tensor:
        """Student features (B, n) -> (B, D)."""
        return self.projection(self.dropout(features))

    def classify(self, features: Tensor) -> Tensor:
        """Student features (B, n) -> (B, C) logits."""
        return self.head(self.project(features))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, C) logits."""
        return self.head(self.embed(images))

    def train_only(self, *parts: str) -> None:
        """Let these parts learn and freeze the others; no gradient enters a frozen student."""
        unknown = set(parts) - set(self.PARTS)
        if unknown:
            raise ValueError(f"Unknown parts {sorted(unknown)}; known: {', '.join(self.PARTS)}.")
        for part in self.PARTS:
            getattr(self, part).requires_grad_(part in parts)

    @property
    def is_student_frozen(self) -> bool:
        """Whether nothing of the student changes: no parameter, no BatchNorm statistic."""
        learns = any(param.requires_grad for param in self.student.parameters())
        return not learns and not self.student.has_moving_statistics

    def trained_parameters(self) -> list[Tensor]:
        """What learns, in a fixed order: what SWAD averages and checkpoints of a run differ in."""
        return [param for param in self.parameters() if param.requires_grad]

    @torch.no_grad()
    def load_trained(self, values: list[Tensor]) -> None:
        """Overwrite the trained parameters by tensors in the order of ``trained_parameters``."""
        for param, value in zip(self.trained_parameters(), values, strict=True):
            param.copy_(value)


def import_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an official ``model_dict`` to ours; a file of ours comes back as it is.

    Raises:
        ValueError: if a key belongs to neither layout.
    """
    renamed = {}
    for key, value in state.items():
        if key.startswith(OFFICIAL_DUPLICATE):
            continue
        prefix = next((old for old in OFFICIAL_PREFIXES if key.startswith(old)), None)
        known = prefix or key.startswith(tuple(f"{part}." for part in StudentClassifier.PARTS))
        if not known:
            raise ValueError(
                f'The checkpoint holds "{key}", which is neither ours (student., projection., '
                f"head.) nor official ({', '.join(OFFICIAL_PREFIXES)})."
            )
        renamed[OFFICIAL_PREFIXES[prefix] + key[len(prefix) :] if prefix else key] = value
    return renamed

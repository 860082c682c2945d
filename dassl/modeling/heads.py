"""The classifier that step-based trainers learn: student, projection, head.

logits = h(P(S(x))). One class serves distillation (P affine, h the text head) and the baselines (P
the identity or affine, h linear); which parts learn is up to the trainer. It is what is deployed:
no teacher is needed to predict. Specification: vl2v_adip, sections 1 and 6.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import DEFAULT_SIZE, build_network, empty_network, takes_any_size

OFFICIAL_PREFIXES = {
    "featurizer.network.": "student.network.",
    "proj_lyr.": "projection.",
    "classifier.": "head.",
}
OFFICIAL_DUPLICATE = "clip_cls."  # a second copy of the text head in official files


class Student(nn.Module):
    """S: images (B, 3, H, W), normalised -> features (B, n), not normalised.

    BatchNorm statistics never change, also in training mode, unless ``freeze_bn`` is False; the
    affine weights of BatchNorm are trained like all others.

    Args:
        network: returns (B, n).
        width: n.
        name: full name, as "timm:<model>.<tag>".
        input_size: pixels.
        freeze_bn: keep every BatchNorm in eval mode.
    """

    def __init__(
        self,
        network: nn.Module,
        width: int,
        *,
        name: str = "",
        input_size: int = DEFAULT_SIZE,
        freeze_bn: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.width = width
        self.name = name
        self.input_size = input_size
        self.freeze_bn = freeze_bn
        self.train(network.training)  # BatchNorm is frozen from the start

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    @property
    def takes_any_size(self) -> bool:
        """Whether the network reads images of other sizes than ``input_size``."""
        return takes_any_size(self.network)

    @property
    def _batchnorms(self) -> list[nn.Module]:
        kind = nn.modules.batchnorm._BatchNorm
        return [module for module in self.modules() if isinstance(module, kind)]

    @property
    def has_moving_statistics(self) -> bool:
        """Whether training mode changes BatchNorm statistics."""
        return not self.freeze_bn and bool(self._batchnorms)

    def train(self, mode: bool = True) -> "Student":
        super().train(mode)
        if self.freeze_bn:
            for module in self._batchnorms:
                module.eval()
        return self


def build_student(
    name: str,
    *,
    pretrained: bool = True,
    weights: str = "",
    freeze_bn: bool = True,
    input_size: int = 0,
) -> Student:
    """Build a student by name, with every parameter trainable; see ``build_network``.

    Args:
        name: a short or full name.
        pretrained: False asks for random initialisation (MODEL.BACKBONE.PRETRAINED).
        weights: a local weights file in place of the published download.
        freeze_bn: see ``Student``.
        input_size: pixels, for networks that take several sizes; 0 is the network's own.
    """
    built = build_network(name, pretrained=pretrained, weights=weights)
    return Student(
        built.module,
        built.width,
        name=built.name,
        input_size=input_size or built.input_size,
        freeze_bn=freeze_bn,
    )


def empty_student(
    name: str, state: Mapping[str, Tensor], *, input_size: int, options: Mapping | None = None
) -> Student:
    """The architecture of a student for given weights; see ``empty_network``."""
    built = empty_network(name, state, input_size=input_size, options=options)
    return Student(built.module, built.width, name=name, input_size=input_size)


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


class Objective(ABC):
    """losses(outputs(network, images), labels): labels enter last.

    Mixed images have two labels each and need one forward pass, of the teacher as well.
    """

    def __call__(
        self, network: StudentClassifier, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W), labels (B,) -> losses; "loss" is minimised."""
        return self.losses(self.outputs(network, images), labels)

    @abstractmethod
    def outputs(self, network: StudentClassifier, images: Tensor) -> Any:
        """Normalised images (B, 3, H, W) -> all that ``losses`` needs besides the labels."""

    @abstractmethod
    def losses(self, outputs: Any, labels: Tensor) -> dict[str, Tensor]:
        """Labels (B,) -> "loss", with a gradient, and further entries that are logged."""

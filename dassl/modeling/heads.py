"""The classifier that step-based trainers learn: student, projection, head.

logits = h(P(S(x))). One class serves distillation (P affine, h the text head) and the baselines (P
the identity or affine, h linear); which parts learn is up to the trainer. It is what is deployed:
no teacher is needed to predict. Specification: vl2v_adip, sections 1 and 6.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip import load_backbone
from dassl.data.seeding import seeded
from dassl.utils import did_you_mean

from .networks import full_name, tap_outputs, tower_like

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


TORCHVISION_HEADS = ("fc", "classifier", "heads", "head")
# attributes of networks whose positions are tied to one image size
FIXED_SIZE_MARKS = ("pos_embed", "positional_embedding", "attnpool", "relative_position_bias_table")
DEFAULT_SIZE = 224  # pixels; the input of every published student


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
        return not any(hasattr(self.network, name) for name in FIXED_SIZE_MARKS)

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

    def taps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (B, n) and the outputs of the tapped modules, in order of depth.

        Maps are (B, C, H, W), tokens (B, L, W) or (L, B, W): channels in dimension 1 or last.

        Raises:
            ValueError: if nobody has said where this architecture is tapped.
        """
        return tap_outputs(self.network, images, self.name)


def build_student(
    name: str,
    *,
    pretrained: bool = True,
    weights: str = "",
    freeze_bn: bool = True,
    input_size: int = 0,
) -> Student:
    """Build a student by name, with every parameter trainable.

    Args:
        name: a short or full name.
        pretrained: False asks for random initialisation (MODEL.BACKBONE.PRETRAINED).
        weights: a local weight file in place of the published download.
        freeze_bn: see ``Student``.
        input_size: pixels, for networks that take several sizes; 0 is the network's own.

    Raises:
        ValueError: for an unknown name.
        FileNotFoundError: if the weights are neither here nor to be had, saying how to get them.
    """
    name = full_name(name)
    source, model = name.split(":", 1)
    if weights and not Path(weights).is_file():
        raise FileNotFoundError(f"MODEL.BACKBONE.WEIGHTS: there is no file {weights}.")
    build = {"torchvision": _torchvision, "timm": _timm, "clip": _clip, "toy": _toy}[source]
    network, width, size = build(model, pretrained, weights)
    student = Student(
        network.requires_grad_(True),
        width,
        name=name,
        input_size=input_size or size,
        freeze_bn=freeze_bn,
    )
    return student.float()


def empty_student(
    name: str, state: Mapping[str, Tensor], *, input_size: int, tower: Mapping | None = None
) -> Student:
    """The architecture of a student, for weights that are at hand; nothing is downloaded.

    Args:
        name: full name.
        state: weights of the network; a CLIP tower's shape is read from them.
        input_size: pixels.
        tower: ``tower_options`` of the network; None where a file does not tell them, for which an
            open_clip tower must be loaded with its original weights.
    """
    source, _, model = name.partition(":")
    if source != "clip":
        return build_student(name, pretrained=False, input_size=input_size)
    if tower is None and model.startswith("open_clip:"):
        network = copy.deepcopy(load_backbone(model, precision="fp32").visual)
    else:
        network = tower_like(state, input_size, **(tower or {}))
    return Student(network, network.output_dim, name=name, input_size=input_size).float()


def _missing(name: str, where: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"The pre-trained weights of the student {name} are not here and could not be downloaded "
        f"({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}). "
        f"Source: {where}. Either run once with network access, or fetch the file elsewhere and "
        "set MODEL.BACKBONE.WEIGHTS to its path, or ask for random initialisation with "
        "MODEL.BACKBONE.PRETRAINED False (its results mean nothing beside published ones). See "
        "DATASETS.md, section Students and teachers."
    )


def _torchvision(model: str, pretrained: bool, weights: str) -> tuple[nn.Module, int, int]:
    from torchvision import models

    if model not in models.list_models(module=models):
        known = models.list_models(module=models)
        raise ValueError(
            f'torchvision has no classification model "{model}". {did_you_mean(model, known)}'
        )
    entry = "IMAGENET1K_V1" if pretrained and not weights else None
    try:
        network = models.get_model(model, weights=entry)
    except OSError as error:
        url = models.get_model_weights(model)["IMAGENET1K_V1"].url
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise _missing(f"torchvision:{model}", f"{url} -> {folder}", error) from error
    if weights:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise _misfit(f"torchvision:{model}", weights, str(error)) from error
    head = next((name for name in TORCHVISION_HEADS if hasattr(network, name)), None)
    if head is None:
        raise ValueError(
            f"torchvision:{model} has no classifier under the names {', '.join(TORCHVISION_HEADS)}."
        )
    setattr(network, head, nn.Identity())
    if getattr(network, "aux_logits", False):
        raise ValueError(
            f"torchvision:{model} returns auxiliary logits besides its features while it trains, "
            "so that it cannot be a student. Take the model of that name from timm."
        )
    return network, _probe_width(network, DEFAULT_SIZE), DEFAULT_SIZE


def _timm(model: str, pretrained: bool, weights: str) -> tuple[nn.Module, int, int]:
    import timm

    architecture, _, tag = model.partition(".")
    if architecture not in timm.list_models():
        close = did_you_mean(architecture, timm.list_models())
        raise ValueError(f'timm has no model "{architecture}". {close}')
    tags = timm.list_pretrained(f"{architecture}.*") or timm.list_pretrained(architecture)
    if model not in tags and (pretrained or tag) and not weights:
        raise ValueError(
            f"timm:{model} needs a weight tag: timm's default for a bare name changes between "
            f"versions. Known: {', '.join(f'timm:{known}' for known in tags) or 'none'}."
        )
    overlay = {"file": weights, "hf_hub_id": None, "url": ""} if weights else None
    try:
        with seeded(0) if weights else nullcontext():  # see _check_all_loaded
            network = timm.create_model(
                model,
                pretrained=pretrained or bool(weights),
                num_classes=0,
                pretrained_cfg_overlay=overlay,
            )
    except (OSError, RuntimeError) as error:
        if weights or not pretrained:
            raise
        hub = f"https://huggingface.co/timm/{model} -> the Hugging Face cache (HF_HOME)"
        raise _missing(f"timm:{model}", hub, error) from error
    if weights:
        with seeded(0):
            untrained = timm.create_model(model, pretrained=False, num_classes=0)
        _check_all_loaded(network, untrained, f"timm:{model}", weights)
    size = network.default_cfg["input_size"][-1]
    # what comes out is asked for: timm's num_features counts the width before a hidden head layer
    return network, _probe_width(network, size), size


def _check_all_loaded(network: nn.Module, untrained: nn.Module, name: str, weights: str) -> None:
    """ValueError if a weight still has its random initial value.

    timm reads a file without complaint when not one of its entries belongs to the model.
    """
    initial = dict(untrained.named_parameters())
    left = [
        key
        for key, value in network.named_parameters()
        if value.unique().numel() > 1 and torch.equal(value, initial[key])
    ]
    if left:
        raise _misfit(name, weights, f"it has no {', '.join(left[:5])}.")


def _misfit(name: str, weights: str, why: str) -> ValueError:
    return ValueError(
        f"MODEL.BACKBONE.WEIGHTS {weights} holds no weights of the student {name}: {why[:500]}"
    )


def _clip(model: str, pretrained: bool, weights: str) -> tuple[nn.Module, int, int]:
    if not pretrained:
        raise ValueError(
            f"MODEL.BACKBONE.PRETRAINED is False, but the student clip:{model} is by definition a "
            "copy of CLIP's image tower. Use a timm: or torchvision: student to start at random."
        )
    tower = load_backbone(weights or model, precision="fp32").visual
    if not isinstance(tower, nn.Module):
        raise ValueError(
            f"The student clip:{model} has no image tower of CLIP's layout, so that it cannot be "
            "trained here. Take it from timm, or another CLIP."
        )
    return copy.deepcopy(tower), tower.output_dim, tower.input_resolution


def _toy(model: str, pretrained: bool, weights: str) -> tuple[nn.Module, int, int]:
    from datasets.toy_world.nets import load_toy_net

    network = load_toy_net(model, pretrained=pretrained, weights=weights)
    return network, network.width, network.input_size


@torch.no_grad()
def _probe_width(network: nn.Module, size: int) -> int:
    """n of the features (B, n); ValueError if a network without its head gives another shape."""
    was_training = network.training
    features = network.eval()(torch.zeros(1, 3, size, size))
    network.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"{type(network).__name__} without its classifier gives {shape} for one image, not one "
            "row of features, so that it cannot be a student. Take such a model from timm."
        )
    return features.shape[1]

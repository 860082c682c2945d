"""A bundle: a tuned classifier as a folder of plain files (docs/export.md).

``card.json`` says what it is, ``classifier.safetensors`` has the tensors that ``Method.exported``
names; the image tower is the user's CLIP.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from clip import load_backbone
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.predictor import Predictor
from dassl.evaluation.calibration import taken_calibration
from dassl.features.encoder import Encoder
from dassl.features.views import Augmentation, Transform
from dassl.utils import weights_digest
from dassl.utils.text_files import read_json

from .predictor import normalise_pixels

CARD, TENSORS = "card.json", "classifier.safetensors"
FORMAT = "vltune bundle 1"


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle."""
    return (folder / CARD).is_file()


def features_of(tensors: Mapping[str, Tensor], raw: Tensor) -> Tensor:
    """(B, D) raw image features -> (B, D) what the classifier compares.

    With a second network (AMU) its features stand beside CLIP's: (B, D + D_a).
    """
    if "auxiliary_weight" in tensors:
        parts = raw.split([tensors["weight"].shape[1], tensors["auxiliary_weight"].shape[1]], dim=1)
        return torch.cat([F.normalize(part, dim=-1) for part in parts], dim=1)
    features = raw
    if "image_residual" in tensors:  # TaskRes
        features = features + tensors["image_residual"]
    if "up" in tensors:  # CLIP-Adapter
        adapted = F.relu(F.relu(features @ tensors["down"].T) @ tensors["up"].T)
        features = torch.lerp(features, adapted, tensors["ratio"])
    return features if "bias" in tensors else F.normalize(features, dim=-1)


def logits_of(tensors: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """(B, D) of ``features_of`` -> (B, C) logits.

    s = scale * f W^T [+ bias of a linear probe] [+ alpha exp(-beta (1 - f F^T)) V of Tip-Adapter]
    [+ alpha (kurtosis(softmax(s)) / 250)^-power zscore(a W_a^T) of AMU]
    """
    dim = tensors["weight"].shape[1]
    features, auxiliary = features[:, :dim], features[:, dim:]
    logits = tensors["scale"] * features @ tensors["weight"].T + tensors.get("bias", 0.0)
    if "keys" in tensors:
        values = F.one_hot(tensors["key_labels"], len(tensors["weight"])).to(features)
        closeness = torch.exp(tensors["beta"] * (features @ tensors["keys"].T - 1))
        logits = logits + tensors["alpha"] * closeness @ values
    if "auxiliary_weight" in tensors:
        kurtosis = _standardise(logits.softmax(dim=1)).pow(4).mean(dim=1, keepdim=True)
        factor = tensors["alpha"] * (kurtosis / 250) ** -tensors["power"]
        logits = logits + factor * _standardise(auxiliary @ tensors["auxiliary_weight"].T)
    return logits


def _standardise(scores: Tensor) -> Tensor:
    """(B, C) -> (score - mean) / std of each row, with divisor C - 1."""
    return (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, keepdim=True)


def view_of(preprocessing: Mapping[str, Any]) -> Transform:
    """The test view that a card describes."""
    return Augmentation.from_input(
        preprocessing["size"],
        INTERPOLATION=preprocessing["interpolation"],
        RESIZE=preprocessing["resize"],
        UPRIGHT=preprocessing["upright"],
    ).test.build()


def load_bundle(folder: Path, device: torch.device) -> Predictor:
    """The classifier of a bundle.

    Raises:
        ValueError: the folder holds something else, or the backbone here has other weights.
    """
    card = read_json(folder / CARD)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ValueError(
            f'{folder / CARD} does not say "format": "{FORMAT}"; expected a folder that '
            "vltune export wrote."
        )
    names, view = card["classnames"], view_of(card["preprocessing"])
    size = card["preprocessing"]["size"]
    tensors = load_file(folder / TENSORS, device=str(device))
    clip = load_backbone(card["backbone"], device=device, activation=card["activation"])
    network = f"backbone {card['backbone']}"
    _check_digest(folder, network, weights_digest(clip.visual), card["backbone_digest"])
    second = _second_network(folder, card, device)

    def features(pixels: Tensor) -> Tensor:
        pixels = pixels.to(device)
        raw = clip.encode_image(normalise_pixels(clip, pixels).to(clip.dtype)).float()
        return features_of(tensors, torch.cat([raw, second(pixels)], dim=1) if second else raw)

    return Predictor(
        names,
        size,
        lambda pixels: logits_of(tensors, features(pixels)),
        view,
        features,
        calibration=taken_calibration(card.get("calibration")),
    )


def _second_network(folder: Path, card: Mapping[str, Any], device: torch.device) -> Encoder | None:
    """The network that a card names beside CLIP, by the trainer that the card names."""
    about = card.get("auxiliary")
    if about is None:
        return None
    trainer: Any = TRAINER_REGISTRY.get(card["method"])
    encoder = trainer.second_network(about["network"], about["weights"], device)
    _check_digest(folder, f"network {about['network']}", encoder.digest, about["digest"])
    return encoder


def _check_digest(folder: Path, network: str, found: str, expected: str) -> None:
    """ValueError if a network has other weights than the training's."""
    if found != expected:
        raise ValueError(
            f"{folder} belongs to a {network} with other weights than those found here (digest "
            f"{expected[:12]} against {found[:12]}). Use the weights of the training."
        )

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
from dassl.engine.predictor import Predictor
from dassl.evaluation.calibration import taken_calibration
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
    """(B, D) raw image features -> (B, D) what the classifier compares."""
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
    """
    logits = tensors["scale"] * features @ tensors["weight"].T + tensors.get("bias", 0.0)
    if "keys" in tensors:
        values = F.one_hot(tensors["key_labels"], len(tensors["weight"])).to(features)
        closeness = torch.exp(tensors["beta"] * (features @ tensors["keys"].T - 1))
        logits = logits + tensors["alpha"] * closeness @ values
    return logits


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
    digest = weights_digest(clip.visual)
    if digest != card["backbone_digest"]:
        raise ValueError(
            f"{folder} belongs to a backbone {card['backbone']} with other weights than those "
            f"found here (digest {card['backbone_digest'][:12]} against {digest[:12]}). Use the "
            "weights of the training."
        )

    def features(pixels: Tensor) -> Tensor:
        images = normalise_pixels(clip, pixels.to(device)).to(clip.dtype)
        return features_of(tensors, clip.encode_image(images).float())

    return Predictor(
        names,
        size,
        lambda pixels: logits_of(tensors, features(pixels)),
        view,
        features,
        calibration=taken_calibration(card.get("calibration")),
    )

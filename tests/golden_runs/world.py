"""Tiny image folders and checkpoints, the same on every machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from golden_checks.tiny_clip import torch_state_dict

# an underscore, a capital, a blank: what templates do with names shows in the numbers
CLASSES = ("Yellow_car", "blue jay", "green_apple", "red square", "violet")
PER_CLASS = 16  # split by rule into 8 for training, 3 for validation, 5 for testing
DOMAINS = ("night", "noise", "paper")
PER_DOMAIN_AND_CLASS = 8
SIDES = (36, 40)  # height, width; the towers read 32 x 32: views are resized and cropped


def make_world(folder: Path) -> Path:
    """Write ``classes/<class>/*``, ``domains/<domain>/<class>/*``, ``tiny_vit.pt``, ``other.pt``.

    The two checkpoints have the same shape and different weights.
    """
    stream = np.random.RandomState(11)
    for label, name in enumerate(CLASSES):
        for number in range(PER_CLASS):
            save_image(folder / "classes" / name / f"{number:02d}.png", stream, label, light=0)
    for place, domain in enumerate(DOMAINS):
        for label, name in enumerate(CLASSES[:3]):
            for number in range(PER_DOMAIN_AND_CLASS):
                path = folder / "domains" / domain / name / f"{number:02d}.png"
                save_image(path, stream, label, light=30 * place)
    torch.save(torch_state_dict("tiny_vit", 0), folder / "tiny_vit.pt")
    torch.save(torch_state_dict("tiny_vit", 1), folder / "other.pt")
    return folder


def save_image(path: Path, stream: np.random.RandomState, label: int, *, light: int) -> None:
    """Noise under a bright bar at a place, and of a channel, that belong to the class."""
    pixels = stream.randint(0, 120, size=(*SIDES, 3)) + light
    row = 6 * label + stream.randint(0, 4)
    pixels[row : row + 8, :, label % 3] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)

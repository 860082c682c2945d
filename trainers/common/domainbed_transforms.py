"""The test view of the leave-one-domain-out protocol (DomainBed): all of the image, made square.

Parity: golden/domain_split. Training views are INPUT.TRANSFORMS of ``step_cfg``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from dassl.data.transforms import INTERPOLATION_MODES
from trainers.common.augment import Pipeline

SIZE = (224, 224)  # height, width
INTERPOLATION = "bilinear"  # the protocol's value of INPUT.INTERPOLATION
CROP_SCALE = (0.7, 1.0)  # fraction of the area
JITTER = 0.3  # brightness, contrast, saturation and hue
GREY_PROBABILITY = 0.1


def whole_image(image: Image.Image, size: tuple[int, int], interpolation: str) -> Tensor:
    """Image -> (3, H, W) uint8, whatever its aspect ratio.

    Args:
        size: (H, W) in pixels.
        interpolation: a value of INPUT.INTERPOLATION; with antialiasing.
    """
    resized = functional.resize(
        image.convert("RGB"), list(size), INTERPOLATION_MODES[interpolation]
    )
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


@dataclass(frozen=True)
class WholeImage(Pipeline):
    """``whole_image`` as a view, for feature banks and predictors.

    Args:
        side: pixels.
        interpolation: a value of INPUT.INTERPOLATION.
    """

    side: int
    interpolation: str

    @property
    def size(self) -> int:
        return self.side

    def describe(self) -> dict[str, Any]:
        return {"side": self.side, "interpolation": self.interpolation}

    def build(self) -> Callable[[Image.Image], Tensor]:
        def transform(image: Image.Image) -> Tensor:
            return whole_image(image, (self.side, self.side), self.interpolation)

        return transform

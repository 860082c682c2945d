"""Image transforms of the leave-one-domain-out protocol (DomainBed), parity: golden/domain_split.

One normalised tensor feeds student and teacher: ImageNet statistics for both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from dassl.config.pixels import IMAGENET_MEAN, IMAGENET_STD
from dassl.data.transforms import INTERPOLATION_MODES
from trainers.common.augment import Pipeline

SIZE = (224, 224)  # height, width
INTERPOLATION = "bilinear"  # the protocol's value of INPUT.INTERPOLATION
CROP_SCALE = (0.7, 1.0)  # fraction of the area
JITTER = 0.3  # brightness, contrast, saturation and hue
GREY_PROBABILITY = 0.1


def eval_transform(
    size: tuple[int, int] = SIZE,
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> T.Compose:
    """PIL image -> (3, h, w): resized without keeping the aspect ratio, normalised."""
    return T.Compose([T.Resize(tuple(size)), T.ToTensor(), T.Normalize(list(mean), list(std))])


@dataclass(frozen=True)
class WholeImage(Pipeline):
    """The test view of the protocol, for feature banks: all of the image, made square.

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
        resize = T.Resize((self.side, self.side), INTERPOLATION_MODES[self.interpolation])

        def transform(image: Image.Image) -> Tensor:
            return torch.from_numpy(np.array(resize(image.convert("RGB")))).permute(2, 0, 1)

        return transform


def train_transform(
    size: tuple[int, int] = SIZE,
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> T.Compose:
    """PIL image -> (3, h, w): crop, flip, colour jitter, sometimes grey, normalised."""
    return T.Compose(
        [
            T.RandomResizedCrop(tuple(size), scale=CROP_SCALE),
            T.RandomHorizontalFlip(),
            T.ColorJitter(JITTER, JITTER, JITTER, JITTER),
            T.RandomGrayscale(GREY_PROBABILITY),
            T.ToTensor(),
            T.Normalize(list(mean), list(std)),
        ]
    )

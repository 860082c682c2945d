"""Pixels as networks read them; the one place where they are scaled and normalised."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from yacs.config import CfgNode

from .drawn import DrawnViews

Statistics = Sequence[float] | Tensor  # one number per channel


def unit_pixels(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [0, 1]; float pixels pass as float32."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.float()


def normalise(pixels: Tensor, mean: Statistics, std: Statistics) -> Tensor:
    """(pixels - mean) / std, per channel.

    Args:
        pixels: (..., 3, H, W) in [0, 1], floating point.
        mean: of pixels in [0, 1].
        std: likewise.
    """
    return (pixels - _channels(mean, pixels)).div_(_channels(std, pixels))


def pixels_on(device: torch.device | str, views: Tensor | DrawnViews) -> Tensor:
    """Pixels of views on a device: (B, 3, H, W) float32 in [0, 1]; drawn ones are made there.

    Args:
        device: where to.
        views: uint8 in 0..255 or float in [0, 1], or what was drawn.
    """
    if isinstance(views, DrawnViews):
        return views.on(device)
    return unit_pixels(views.to(device, non_blocking=True))


def network_pixels(batch: Tensor | DrawnViews, node: CfgNode, device: torch.device | str) -> Tensor:
    """A loader's tensor on a device: drawn views and bytes become pixels, the rest passes.

    Args:
        batch: (B, 3, H, W) uint8 where INPUT.NORMALIZE_ON_DEVICE is on, drawn views where
            INPUT.AUGMENT_ON_DEVICE is, or another tensor.
        node: INPUT, for these keys and the statistics.
        device: where to.
    """
    if isinstance(batch, DrawnViews):
        if "normalize" not in node.TRANSFORMS:
            return batch.on(device)
    elif not node.NORMALIZE_ON_DEVICE or batch.dtype != torch.uint8:
        return batch.to(device, non_blocking=True)
    return normalise(pixels_on(device, batch), node.PIXEL_MEAN, node.PIXEL_STD)


def unnormalise(images: Tensor, mean: Statistics, std: Statistics) -> Tensor:
    """What ``normalise`` has made of them -> pixels (..., 3, H, W) in [0, 1]."""
    return images * _channels(std, images) + _channels(mean, images)


def _channels(values: Statistics, like: Tensor) -> Tensor:
    here = torch.as_tensor(values, dtype=like.dtype)  # a list on a GPU would be waited for
    return here.to(like.device, non_blocking=True).view(-1, 1, 1)


@dataclass(frozen=True)
class Normalise:
    """``normalise`` as a step of a transform."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        return normalise(pixels, self.mean, self.std)

"""From the steps of a transform to drawn views: the same draws, the pixels left for later."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional

from dassl.utils.image import in_rgb, upright

from .views import Plan, Step, View

# Parts of more than so many times the view's pixels, height or width are resized where they are
# read: fewer bytes travel, and torch's kernel for GPUs cannot shrink by hundreds.
LARGEST = 16
UNDRAWN = (
    "INPUT.AUGMENT_ON_DEVICE is True, but the device makes resized crops, flips, colour jitter and "
    "grey images only, and INPUT.TRANSFORMS gives: {}. Leave that out, or set "
    "INPUT.AUGMENT_ON_DEVICE to False."
)


class Drawing:
    """A transform that draws a view: image -> ``View``.

    Random numbers come from torch's generator, in torchvision's order: the crop, flip and colours
    are those that the steps themselves would give.

    Args:
        steps: (description, step) from the image on, before it becomes a tensor.

    Raises:
        ValueError: another step than resizing, resized crops, flips, colour jitter and grey.
    """

    def __init__(self, steps: Sequence[tuple[str, Any]]) -> None:
        others = [d for d, step in steps if step is not upright and type(step) not in _KNOWN]
        if others:
            raise ValueError(UNDRAWN.format(", ".join(others)))
        self.is_turned = any(step is upright for _, step in steps)
        (self.resizing,) = (s for _, s in steps if isinstance(s, (T.Resize, T.RandomResizedCrop)))
        self.operations = [step for _, step in steps if type(step) in _DRAWN]
        self._latest: _Photograph | None = None

    def __call__(self, image: Image.Image) -> View:
        step, (height, width) = self.resizing, self.resizing.size
        if self._latest is None or self._latest.image is not image:
            self._latest = _Photograph(image, is_turned=self.is_turned)
        turned = self._latest.turned
        box = (0, 0, turned.height, turned.width)
        if isinstance(step, T.RandomResizedCrop):
            box = step.get_params(turned, list(step.scale), list(step.ratio))
        drawn = tuple(op for step in self.operations for op in _DRAWN[type(step)](step))
        tall, wide = box[2] / height, box[3] / width
        if max(tall * wide, tall, wide) > LARGEST:
            small = functional.resized_crop(turned, *box, [height, width], step.interpolation)
            pixels, box = _bytes(small), (0, 0, height, width)
        else:
            pixels = self._latest.pixels
        return View(pixels, Plan(box, (height, width), step.interpolation.value, drawn))


class _Photograph:
    """What the views of one image share: the image in RGB, turned upright, and its bytes."""

    def __init__(self, image: Image.Image, *, is_turned: bool) -> None:
        rgb = in_rgb(image)
        self.image, self.turned = image, upright(rgb) if is_turned else rgb

    @cached_property
    def pixels(self) -> Tensor:
        return _bytes(self.turned)


def _bytes(image: Image.Image) -> Tensor:
    """(h, w, 3) uint8."""
    return torch.from_numpy(np.array(image))


def _flip(step: T.RandomHorizontalFlip) -> Iterator[Step]:
    yield "flip", (float(torch.rand(1) < step.p),)


def _grey(step: T.RandomGrayscale) -> Iterator[Step]:
    yield "grey", (float(torch.rand(1) < step.p),)


def _colours(step: T.ColorJitter) -> Iterator[Step]:
    order, *factors = step.get_params(step.brightness, step.contrast, step.saturation, step.hue)
    for place in order.tolist():
        if factors[place] is not None:
            yield ("brightness", "contrast", "saturation", "hue")[place], (factors[place],)


_DRAWN: dict[type, Callable[[Any], Iterator[Step]]] = {
    T.RandomHorizontalFlip: _flip,
    T.ColorJitter: _colours,
    T.RandomGrayscale: _grey,
}
_KNOWN = (T.Resize, T.RandomResizedCrop, *_DRAWN)

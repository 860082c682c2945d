"""What was drawn for a view, and many such views as one tensor of bytes.

Which crop, flip and colours a view gets is drawn where its image is read, from the generators that
the ordinary transforms draw from; pixels are resized and changed where the network is.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, starmap
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data._utils.collate import default_collate_fn_map

from .operations import OPERATIONS

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
Step = tuple[str, tuple[float, ...]]  # a name in OPERATIONS and its numbers
NO_PIXELS = (
    "INPUT.AUGMENT_ON_DEVICE is True: a training batch holds drawn views in place of pixels, which "
    "have no {}. Where the trainer overrides parse_batch_train(), call "
    'self.to_device(batch["img"]), which makes the normalised pixels, or set the key to False.'
)


class Plan(NamedTuple):
    """What to make of an image.

    box: the part that is resized.
    size: (H, W) of the view in pixels.
    interpolation: bilinear | bicubic | nearest; the first two with antialiasing.
    steps: operations on the resized part, in order.
    share: of the result in the mixture that AugMix makes; 1 without chains.
    chains: weight and further steps of each other part of that mixture.
    """

    box: Box
    size: tuple[int, int]
    interpolation: str
    steps: tuple[Step, ...] = ()
    share: float = 1.0
    chains: tuple[tuple[float, tuple[Step, ...]], ...] = ()


class View(NamedTuple):
    """A decoded image (h, w, 3), uint8, and what to make of it."""

    image: Tensor
    plan: Plan


@dataclass
class DrawnViews:
    """B views of one pipeline. Views of the same image share its bytes.

    Attributes:
        data: (bytes,) uint8: parts of images, one after the other, each (h, w, 3).
        parts: (first byte, h, w) of each.
        views: the part of each view and what to make of it.
    """

    data: Tensor
    parts: list[tuple[int, int, int]]
    views: list[tuple[int, Plan]]

    @classmethod
    def of(cls, views: Sequence[View]) -> "DrawnViews":
        """Of each image, the smallest rectangle that holds the boxes of its views."""
        by_image: dict[int, list[int]] = defaultdict(list)
        for row, view in enumerate(views):
            by_image[view.image.data_ptr()].append(row)
        pieces: list[Tensor] = []
        parts: list[tuple[int, int, int]] = []
        plans: dict[int, tuple[int, Plan]] = {}
        start = 0
        for rows in by_image.values():
            boxes = [views[row].plan.box for row in rows]
            top, left = (min(values) for values in list(zip(*boxes, strict=True))[:2])
            height = max(box[0] + box[2] for box in boxes) - top
            width = max(box[1] + box[3] for box in boxes) - left
            for row in rows:
                plan = views[row].plan
                box = (plan.box[0] - top, plan.box[1] - left, *plan.box[2:])
                plans[row] = len(parts), plan._replace(box=box)
            image = views[rows[0]].image
            pieces.append(image[top : top + height, left : left + width].reshape(-1))
            parts.append((start, height, width))
            start += len(pieces[-1])
        return cls(torch.cat(pieces), parts, [plans[row] for row in range(len(views))])

    def __len__(self) -> int:
        return len(self.views)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(NO_PIXELS.format(repr(name)))

    def __getitem__(self, rows: slice) -> "DrawnViews":
        """Consecutive views, with the bytes of their images only."""
        if not isinstance(rows, slice):
            raise TypeError(NO_PIXELS.format(f"[{rows}]"))
        views = self.views[rows]
        used = [part for part, _ in views]
        first, last = min(used), max(used)
        parts = self.parts[first : last + 1]
        (start, _, _), (end, height, width) = parts[0], parts[-1]
        return DrawnViews(
            self.data[start : end + 3 * height * width],
            [(place - start, height, width) for place, height, width in parts],
            [(part - first, plan) for part, plan in views],
        )

    def __iter__(self) -> Iterator[View]:
        images = list(starmap(self._part, self.parts))
        for part, plan in self.views:
            yield View(images[part], plan)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the pixels: (B, 3, H, W)."""
        return len(self), 3, *self.views[0][1].size

    def pin_memory(self) -> "DrawnViews":
        """The same with its bytes in page-locked memory, as loaders ask for."""
        return replace(self, data=self.data.pin_memory())

    def on(self, device: torch.device | str) -> Tensor:
        """The views, made on a device: (B, 3, H, W) float32 in [0, 1]."""
        here = replace(self, data=self.data.to(device, non_blocking=True))
        resized: list[Tensor] = []
        for part, views in groupby(self.views, itemgetter(0)):  # one image as floats at a time
            image = here._part(*self.parts[part]).permute(2, 0, 1).float()
            resized += [_resized(image, plan) for _, plan in views]
        pixels = torch.stack(resized).round_().clamp_(0, 255)
        plans = [plan for _, plan in self.views]
        pixels = _operated(pixels, [plan.steps for plan in plans])
        if plans[0].chains:
            pixels = _mixed(pixels, plans)
        return pixels.div_(255)

    def _part(self, start: int, height: int, width: int) -> Tensor:
        return self.data[start : start + 3 * height * width].view(height, width, 3)


def _resized(image: Tensor, plan: Plan) -> Tensor:
    """(3, H, W) levels, not rounded."""
    top, left, height, width = plan.box
    part = image[:, top : top + height, left : left + width]
    if (height, width) == plan.size:
        return part
    if plan.interpolation == "nearest":
        return functional.interpolate(part[None], plan.size, mode="nearest-exact")[0]
    return functional.interpolate(part[None], plan.size, mode=plan.interpolation, antialias=True)[0]


def _operated(pixels: Tensor, programs: Sequence[Sequence[Step]]) -> Tensor:
    """Each view after the steps of its own program; equal steps of several views are one call."""
    for place in range(max(map(len, programs))):
        by_name: dict[str, list[int]] = defaultdict(list)
        for row, steps in enumerate(programs):
            if place < len(steps):
                by_name[steps[place][0]].append(row)
        changed = pixels.clone()
        for name, rows in by_name.items():
            drawn = torch.tensor([programs[row][place][1] for row in rows])
            numbers = drawn.to(pixels.device, non_blocking=True)
            if len(rows) == len(pixels):
                changed = OPERATIONS[name](pixels, numbers)
                break
            index = torch.tensor(rows).to(pixels.device, non_blocking=True)
            changed.index_copy_(0, index, OPERATIONS[name](pixels[index], numbers))
        pixels = changed
    return pixels


def _mixed(pixels: Tensor, plans: Sequence[Plan]) -> Tensor:
    """share * x + the sum of weight * chain(x); the weights of a view and its share sum to 1."""
    weights = torch.tensor([[p.share, *(weight for weight, _ in p.chains)] for p in plans])
    own, *others = weights.to(pixels.device, non_blocking=True).T.view(-1, len(plans), 1, 1, 1)
    mixed = own * pixels
    for chain, weight in enumerate(others):
        mixed += weight * _operated(pixels, [plan.chains[chain][1] for plan in plans])
    return mixed.clamp_(0, 255)


def batched(views: Sequence[Any]) -> Any:
    """Pixels (3, H, W) of views as one tensor, or drawn views as ``DrawnViews``."""
    return DrawnViews.of(views) if isinstance(views[0], View) else torch.stack(list(views))


def _collated(views: Sequence[View], *, collate_fn_map: Any) -> DrawnViews:
    return DrawnViews.of(views)


default_collate_fn_map[View] = _collated  # for every loader, wherever views are in its items

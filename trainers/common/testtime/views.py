"""Views of test images for test-time methods: the centre crop and seeded augmented views.

Pipelines of TPT and DMN (arXiv 2209.07511, 2403.17589); AugMix is arXiv 1912.02781. Views are
encoded in batches across images, whatever the stream does with them afterwards.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from dassl.data.datasets import Datum
from dassl.data.drawn import Drawing, Plan, Step, View
from dassl.features.bank import FeatureBank
from dassl.features.encode import Sink, fill
from dassl.features.views import ON_DEVICE, Pipeline, Transform
from dassl.utils.image import in_rgb, upright
from trainers.common.text.templates import IMAGENET_SETS

CHUNK_VIEWS = 4096  # views encoded ahead of the stream
OPERATIONS = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
SEVERITY_CHAINS = 3  # chains that AugMix blends


@dataclass(frozen=True)
class CropFlip(Pipeline):
    """Random resized crop (bilinear, ratio 3/4 to 4/3) and horizontal flip.

    Args:
        side: of the square output in pixels.
        scale: smallest and largest share of the area.
        is_turned: INPUT.UPRIGHT: apply the orientation tags of photographs first.
        is_drawn: INPUT.AUGMENT_ON_DEVICE: made where the encoder is.
    """

    side: int
    scale: tuple[float, float]
    is_turned: bool = False
    is_drawn: bool = False

    @property
    def size(self) -> int:
        return self.side

    def describe(self) -> dict[str, Any]:
        turned = {"upright": True} if self.is_turned else {}
        made = ON_DEVICE if self.is_drawn else {}
        return {"side": self.side, "scale": list(self.scale), **turned, **made}

    def steps(self) -> list[tuple[str, Callable]]:
        """(description, step) from the image on, before it becomes a tensor."""
        crop = T.RandomResizedCrop(
            self.side, scale=self.scale, interpolation=InterpolationMode.BILINEAR
        )
        turn = [("turn upright", upright)] * self.is_turned
        return [*turn, ("crop", crop), ("flip", T.RandomHorizontalFlip())]

    def build(self) -> Transform:
        if self.is_drawn:
            return Drawing(self.steps())
        crop = self._cropped()
        return lambda image: _pixels(crop(in_rgb(image)))

    def _cropped(self) -> Callable[[Image.Image], Image.Image]:
        return T.Compose([step for _, step in self.steps()])


@dataclass(frozen=True)
class AugMixViews(CropFlip):
    """Crop and flip, then AugMix of severity 1: m x + (1 - m) sum_i w_i chain_i(x).

    Weights sum to 1, so mixing before the normalisation equals the official mixing after it.
    """

    def build(self) -> Transform:
        plain, crop, width = super().build(), self._cropped(), self.side

        def draw(image: Image.Image) -> View:
            view = plain(image)
            return view._replace(plan=draw_mixture(width).added_to(view.plan))

        return draw if self.is_drawn else lambda image: draw_mixture(width).of(crop(in_rgb(image)))


def _pixels(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Mixture:
    """What AugMix draws for an image.

    Attributes:
        share: m, of the image itself.
        weights: w of each chain; they sum to 1.
        chains: operations of each, with their numbers.
    """

    share: float
    weights: tuple[float, ...]
    chains: tuple[tuple[Step, ...], ...]

    def of(self, image: Image.Image) -> Tensor:
        """(3, H, W) float32 in [0, 1]."""
        mixed = self.share * _pixels(image).float()
        for weight, chain in zip(self.weights, self.chains, strict=True):
            changed = reduce(operate, chain, image)
            mixed += (1.0 - self.share) * weight * _pixels(changed).float()
        return mixed.div_(255.0).clamp_(0.0, 1.0)

    def added_to(self, plan: Plan) -> Plan:
        """A plan that mixes what it made before."""
        height, width = plan.size
        chains = tuple(
            ((1.0 - self.share) * weight, tuple(_on_device(step, width, height) for step in chain))
            for weight, chain in zip(self.weights, self.chains, strict=True)
        )
        return plan._replace(share=self.share, chains=chains)


def draw_mixture(width: int) -> Mixture:
    """Draw AugMix of severity 1, from the global generators of NumPy and ``random``.

    w ~ Dirichlet(1, 1, 1), m ~ Beta(1, 1); each of three chains applies one to three operations.

    Args:
        width: of the image in pixels.
    """
    weights = np.random.dirichlet([1.0] * SEVERITY_CHAINS).tolist()
    share = float(np.random.beta(1.0, 1.0))
    chains = []
    for _ in weights:
        count = random.randint(1, 3)
        drawn = ((random.choice(OPERATIONS), random.uniform(0.1, 1.0)) for _ in range(count))
        chains.append(tuple(_step(name, level, width) for name, level in drawn))
    return Mixture(share, tuple(weights), tuple(chains))


def _step(name: str, level: float, width: int) -> Step:
    """One AugMix operation at a level in (0.1, 1); signs are drawn from ``random``."""
    if name in ("autocontrast", "equalize"):
        return name, ()
    if name == "posterize":
        return name, (4 - int(0.4 * level),)
    if name == "solarize":
        return name, (256 - int(25.6 * level),)
    sign = 1 if random.random() < 0.5 else -1
    if name == "rotate":
        return name, (sign * int(3 * level),)
    shear, shift = sign * 0.03 * level, sign * int(level * (width / 3) / 10)
    matrices = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift),
    }
    return "affine", matrices[name]


def operate(image: Image.Image, step: Step) -> Image.Image:
    """One operation, as Pillow makes it."""
    name, numbers = step
    if name == "rotate":
        return image.rotate(numbers[0], resample=Image.Resampling.BILINEAR)
    if name == "affine":
        return image.transform(
            image.size, Image.Transform.AFFINE, numbers, resample=Image.Resampling.BILINEAR
        )
    return getattr(ImageOps, name)(image, *map(int, numbers))


def _on_device(step: Step, width: int, height: int) -> Step:
    """The same operation for ``dassl.data.drawn``: a rotation is affine, about the centre."""
    name, numbers = step
    if name != "rotate":
        return step
    angle = -math.radians(numbers[0])
    cos, sin, x, y = math.cos(angle), math.sin(angle), width / 2, height / 2
    return "affine", (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def view_pipeline(kind: str, dataset: str, side: int, scale: tuple[float, float]) -> CropFlip:
    """The pipeline of augmented test views.

    Args:
        kind: crop, augmix, or auto: crop for ImageNet and its variants, augmix elsewhere.
        dataset: DATASET.NAME.
    """
    if kind == "auto":
        kind = "crop" if dataset in IMAGENET_SETS else "augmix"
    return (CropFlip if kind == "crop" else AugMixViews)(side, scale)


class _ViewSink(Sink):
    """Writes the encoded views of image i to ``features[i, first + v]``."""

    def __init__(
        self,
        bank: FeatureBank,
        features: Tensor,
        labels: Sequence[str | None],
        *,
        first: int,
    ) -> None:
        super().__init__(bank.encoder, bank.pipeline(first), bank.batch_size)
        self.features, self.labels, self.first = features, list(labels), first

    def wanted(self, i: int) -> list[str | None]:
        return self.labels

    def tag(self, i: int, label: str | None, image: bytes) -> tuple[int, int]:
        return i, self.first + self.labels.index(label)

    def keep(self, tags: list, features: Tensor) -> None:
        images, views = zip(*tags, strict=True)
        self.features[list(images), list(views)] = features


class TestViews:
    """The V views of test images: view 0 as in any evaluation, V - 1 augmented ones.

    Args:
        bank: encoder and pipelines (``augmentation.train`` makes the augmented views).
        items: the N images.
        views: V.
        seed: of the augmented views.
        stored: keep them in the bank for later runs; False encodes them again.
    """

    __test__ = False  # not a test of pytest's

    def __init__(
        self, bank: FeatureBank, items: Sequence[Datum], *, views: int, seed: int, stored: bool
    ) -> None:
        self.bank, self.items, self.views = bank, list(items), views
        self.seed, self.stored = seed, stored

    def chunks(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (n,) places and their raw features (n, V, D) in the given order."""
        if not len(order):
            return
        size = max(1, CHUNK_VIEWS // self.views)
        read = self._stored() if self.stored else self._fresh
        for places in order.split(size):
            yield places, read(places)

    def _stored(self):
        plain = self.bank.test(self.items)
        extra = (
            self.bank.train(self.items, views=self.views - 1, seed=self.seed)
            if (self.views > 1)
            else None
        )

        def read(places: Tensor) -> Tensor:
            rows = [plain.rows(places)]
            rows += [extra.rows(places, view) for view in range(self.views - 1)]
            return torch.stack(rows, dim=1)

        return read

    def _fresh(self, places: Tensor) -> Tensor:
        paths = [self.items[i].impath for i in places.tolist()]
        features = torch.full((len(paths), self.views, self.bank.dim), torch.nan)
        labels = [f"{self.seed}/{view}" for view in range(self.views - 1)]
        sinks = [_ViewSink(self.bank, features, [None], first=0)]
        if labels:
            sinks.append(_ViewSink(self.bank, features, labels, first=1))
        fill(self.bank.reader, paths, sinks, self.bank.report)
        return features

"""Views of images: what a decoded image becomes before any encoder sees it.

A view is a function of (pipeline, seed, view, content of the image) alone: batch size, number of
workers, order of the images and the encoder play no part. Pixels are not normalised.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.data.pixels import unnormalise
from dassl.data.transforms import INTERPOLATION_MODES, READS, drawing, transform_steps
from dassl.utils.image import in_rgb, upright

AFTER_NORMALIZE = ("gaussian_noise", "instance_norm")  # they work on normalised pixels
ON_DEVICE = {"made": "on the device"}  # part of the description of drawn views
Transform = Callable[[Image.Image], Any]  # to (3, H, W) pixels, or to a drawn view


class Pipeline(ABC):
    """One way of turning an image into pixels. Must be picklable (workers get it).

    A subclass draws all its randomness from the global generators of ``random``, NumPy or torch:
    they are seeded for each view.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Side of the square output in pixels."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """All that the pixels depend on, as JSON values; stored rows belong to this."""

    @abstractmethod
    def build(self) -> Transform:
        """A function from an image to (3, size, size); alpha is dropped first.

        uint8 pixels in 0..255, or float pixels in [0, 1]; not normalised. Or a drawn view.
        """

    @property
    def key(self) -> str:
        """Digest of the description."""
        text = json.dumps([type(self).__name__, self.describe()], sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class InputPipeline(Pipeline):
    """The transforms of a config's INPUT node, without the normalisation.

    Testing: resize of the shorter side, centre crop. Training: INPUT.TRANSFORMS in the engine's
    order. Alpha is dropped before any transform, as the data loader does (OpenAI's preprocessing
    drops it after the crop).

    Args:
        settings: the INPUT node as a plain dict.
        is_train: which of the two.
    """

    settings: dict[str, Any] = field(hash=False)
    is_train: bool

    @property
    def size(self) -> int:
        return max(self.settings["SIZE"])

    @property
    def _names(self) -> tuple[str, ...]:
        """The transforms that matter here, sorted: the engine applies them in a fixed order."""
        names = set(self.settings["TRANSFORMS"])
        if not self.is_train:
            names &= {"normalize", "instance_norm"}
        if not names.intersection(AFTER_NORMALIZE):
            names.discard("normalize")  # each encoder normalises
        return tuple(sorted(names))

    def describe(self) -> dict[str, Any]:
        keys = {"SIZE", "INTERPOLATION"}
        for name in self._names:
            keys.update(READS.get(name, ()))
        if not self.is_train and self.settings.get("RESIZE", "shortest") != "shortest":
            keys.add("RESIZE")
        if self.settings.get("UPRIGHT"):
            keys.add("UPRIGHT")
        chosen = {key: self.settings[key] for key in sorted(keys)}
        described = {"is_train": self.is_train, "transforms": self._names, **chosen}
        if not self.is_train:
            return {**described, "alpha": "dropped before the resize"}
        return {**described, **ON_DEVICE} if self._is_drawn else described

    @property
    def _is_drawn(self) -> bool:
        return self.is_train and self.settings.get("AUGMENT_ON_DEVICE", False)

    def build(self) -> Transform:
        described = transform_steps(CfgNode(self.settings), self._names, is_train=self.is_train)
        if self._is_drawn:
            return drawing(described)
        steps = [step for _, step in described]
        split = next(i for i, step in enumerate(steps) if isinstance(step, T.ToTensor))
        on_image, on_tensor = T.Compose(steps[:split]), T.Compose(steps[split + 1 :])
        is_plain = not steps[split + 1 :]
        undo = "normalize" in self._names
        mean, std = self.settings["PIXEL_MEAN"], self.settings["PIXEL_STD"]

        def transform(image: Image.Image) -> Tensor:
            image = on_image(in_rgb(image))
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
            if is_plain:
                return pixels
            pixels = on_tensor(pixels.float().div_(255))
            return unnormalise(pixels, mean, std) if undo else pixels

        return transform


@dataclass(frozen=True)
class Augmentation:
    """How images are seen: one deterministic test view, any number of seeded training views.

    Args:
        test: pipeline of the test view.
        train: pipeline of the training views.
    """

    test: Pipeline
    train: Pipeline

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "Augmentation":
        """The transforms of a config (INPUT.SIZE, INTERPOLATION, TRANSFORMS, RRCROP_SCALE, ...).

        Raises:
            ValueError: INPUT.SIZE is not square; INPUT.AUGMENT_ON_DEVICE with a transform that
                cannot be made there.
        """
        settings = {key: _plain(key, value) for key, value in cfg.INPUT.items()}
        if len(set(settings["SIZE"])) != 1:
            raise ValueError(f"INPUT.SIZE is {settings['SIZE']}; views are square.")
        train = InputPipeline(settings, is_train=True)
        train.build()  # raises what is wrong with it
        return cls(InputPipeline(settings, is_train=False), train)

    @classmethod
    def from_input(cls, size: int, **settings: Any) -> "Augmentation":
        """Views given by keys of INPUT over the engine's defaults, bicubic.

        ``Augmentation.from_input(224, TRANSFORMS=("random_resized_crop", "random_flip"),
        RRCROP_SCALE=(0.5, 1.0))``
        """
        cfg = get_cfg_default()
        unknown = sorted(set(settings) - set(cfg.INPUT))
        if unknown:
            raise ValueError(
                f"Unknown keys of INPUT: {', '.join(unknown)}. Known: {', '.join(cfg.INPUT)}."
            )
        for key, value in {"SIZE": (size, size), "INTERPOLATION": "bicubic", **settings}.items():
            cfg.INPUT[key] = value
        return cls.from_cfg(cfg)

    @property
    def size(self) -> int:
        """Side of the views in pixels."""
        return self.test.size


def _plain(key: str, value: Any) -> Any:
    """Lists in place of tuples; 1 and 1.0 are the same, except in sizes."""
    if not isinstance(value, (tuple, list)):
        return value
    return [float(v) if isinstance(v, int) and key != "SIZE" else v for v in value]


def view_seed(label: str, image: bytes) -> int:
    """The seed of a view: a function of its label (seed and view) and the image's digest."""
    digest = hashlib.blake2b(
        label.encode(errors="surrogateescape") + b"/" + image, digest_size=8
    ).digest()
    return int.from_bytes(digest, "little") >> 1


INTERPOLATION = "bilinear"  # the protocol's value of INPUT.INTERPOLATION


def whole_image(
    image: Image.Image, size: tuple[int, int], interpolation: str, *, is_turned: bool = False
) -> Tensor:
    """Image -> (3, H, W) uint8, whatever its aspect ratio.

    Args:
        size: (H, W) in pixels.
        interpolation: a value of INPUT.INTERPOLATION; with antialiasing.
        is_turned: INPUT.UPRIGHT: apply the orientation tag.
    """
    image = (upright(image) if is_turned else image).convert("RGB")
    resized = functional.resize(image, list(size), INTERPOLATION_MODES[interpolation])
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

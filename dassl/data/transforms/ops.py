"""Single image operations that torchvision lacks. Parity: tests/golden/engine (transforms)."""

import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_ENLARGE = 1.125


class Random2DTranslation:
    """With probability p enlarge by 1/8 and cut a random window of the size, else resize.

    Draws from Python's global random generator; resizes bilinearly unless told otherwise.
    """

    def __init__(
        self,
        height: int,
        width: int,
        p: float = 0.5,
        interpolation: Image.Resampling = Image.Resampling.BILINEAR,
    ):
        self.height = height
        self.width = width
        self.p = p
        self.interpolation = interpolation

    def __call__(self, img: Image.Image) -> Image.Image:
        if random.uniform(0, 1) > self.p:
            return img.resize((self.width, self.height), self.interpolation)
        new_width, new_height = round(self.width * _ENLARGE), round(self.height * _ENLARGE)
        resized = img.resize((new_width, new_height), self.interpolation)
        left = round(random.uniform(0, new_width - self.width))
        top = round(random.uniform(0, new_height - self.height))
        return resized.crop((left, top, left + self.width, top + self.height))


class InstanceNormalization:
    """(x - mean) / (std + eps) per channel of one (C, H, W) image, unbiased std."""

    def __init__(self, eps: float = 1e-8):
        self.eps = eps

    def __call__(self, img: Tensor) -> Tensor:
        flat = img.reshape(img.shape[0], -1)
        mean = flat.mean(dim=1).view(-1, 1, 1)
        std = flat.std(dim=1).view(-1, 1, 1)
        return (img - mean) / (std + self.eps)


class Cutout:
    """Set `n_holes` squares of side `length` of a (C, H, W) image to 0 (arXiv 1708.04552).

    Centres come from NumPy's global generator, row first; squares are clipped at the border.
    """

    def __init__(self, n_holes: int = 1, length: int = 16):
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img: Tensor) -> Tensor:
        height, width = img.shape[1:]
        mask = img.new_ones(height, width)
        half = self.length // 2
        for _ in range(self.n_holes):
            y, x = np.random.randint(height), np.random.randint(width)
            mask[max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return img * mask


class GaussianNoise:
    """Add N(mean, std) noise to a tensor with probability p."""

    def __init__(self, mean: float = 0.0, std: float = 0.15, p: float = 0.5):
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, img: Tensor) -> Tensor:
        if random.uniform(0, 1) > self.p:
            return img
        return img + torch.randn(img.size()) * self.std + self.mean

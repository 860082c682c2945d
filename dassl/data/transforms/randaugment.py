"""RandAugment (Cubuk et al., NeurIPS 2020, arXiv 1909.13719) and two relatives.

Operations are torchvision's; draws come from torch's global generator.
"""

import torch
from PIL import Image, ImageDraw
from torchvision.transforms import RandAugment as _TorchvisionRandAugment

_LEVELS = 31  # magnitudes 0 to 30
_GREY = (127, 127, 127)


class RandAugment(_TorchvisionRandAugment):
    """n operations at the fixed magnitude m, 0 to 30."""

    def __init__(self, n: int = 2, m: int = 10):
        if not 0 <= m < _LEVELS:
            raise ValueError(f"INPUT.RANDAUGMENT_M is {m}; it lies between 0 and {_LEVELS - 1}.")
        super().__init__(num_ops=n, magnitude=m, num_magnitude_bins=_LEVELS)


class RandAugment2:
    """n operations, each with probability p and a random magnitude."""

    def __init__(self, n: int = 2, p: float = 0.6):
        self.n = n
        self.p = p
        self._levels = [RandAugment(n=1, m=level) for level in range(1, _LEVELS)]

    def __call__(self, img: Image.Image) -> Image.Image:
        for _ in range(self.n):
            if torch.rand(()).item() < self.p:
                level = int(torch.randint(len(self._levels), ()))
                img = self._levels[level](img)
        return img


class RandAugmentFixMatch(RandAugment2):
    """As in FixMatch (Sohn et al., NeurIPS 2020, arXiv 2001.07685).

    n operations, each with probability 1/2 and a random magnitude, then a grey square whose side
    is drawn up to half of the image's shorter side.
    """

    def __init__(self, n: int = 2):
        super().__init__(n=n, p=0.5)

    def __call__(self, img: Image.Image) -> Image.Image:
        img = super().__call__(img).copy()
        fraction, x, y = torch.rand(3).tolist()
        half = fraction * 0.5 * min(img.size) / 2
        x, y = x * img.width, y * img.height
        ImageDraw.Draw(img).rectangle((x - half, y - half, x + half, y + half), fill=_GREY)
        return img

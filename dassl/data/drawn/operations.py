"""Operations of Pillow on a batch of views, with numbers of its own for each view.

Pixels are (n, 3, H, W) float32 that hold whole numbers in 0..255, before and after; numbers are
(n, k). Within one level of Pillow's result. Parity: tests/dassl/test_drawn.py.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 256
SLACK = 2**-8  # below which a sum of products counts as the whole number above it


def flip(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Mirror left and right where the number is 1."""
    return torch.where(_spread(numbers) > 0, pixels.flip(-1), pixels)


def grey(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Grey where the number is 1."""
    return torch.where(_spread(numbers) > 0, _luma(pixels), pixels)


def brightness(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(torch.zeros_like(pixels), pixels, numbers)


def contrast(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Blend with the mean grey of the view."""
    mean = _luma(pixels).mean(dim=(1, 2, 3), dtype=torch.float64)
    return _blend((mean + 0.5).floor().to(pixels).view(-1, 1, 1, 1), pixels, numbers)


def saturation(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Blend with the grey view."""
    return _blend(_luma(pixels), pixels, numbers)


def hue(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Turn the colour circle by a part of it in -0.5..0.5; hue and saturation have 256 levels."""
    red, green, blue = pixels.unbind(1)
    value, low = pixels.amax(1), pixels.amin(1)
    chroma = value - low
    red_off, green_off, blue_off = ((value - c) / chroma.clamp(min=1) for c in (red, green, blue))
    sector = torch.where(
        value == red,
        blue_off - green_off,
        torch.where(value == green, 2 + red_off - blue_off, 4 + green_off - red_off),
    )
    angle = ((sector / 6 + 1) % 1 * 255).floor()
    strength = (chroma / value.clamp(min=1) * 255).floor() / 255
    turn = (numbers * 255).trunc().view(-1, 1, 1)
    angle = torch.where(chroma > 0, angle, 0) + turn
    sixth = angle % LEVELS * 6 / 255
    # a colour falls from its value to value * (1 - strength) with the distance from its own angle
    channels = []
    for own in (0.0, 2.0, 4.0):
        distance = (sixth - own).abs()
        distance = torch.minimum(distance, 6 - distance)
        channels.append((value * (1 - strength * (distance - 1).clamp(0, 1)) + 0.5).floor())
    return torch.stack(channels, dim=1)


def autocontrast(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Stretch each channel to 0..255."""
    low, high = (values.double() for values in _extremes(pixels))
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)  # 255 / x would round twice
    table = (_levels(pixels).double() * scale - low * scale).trunc().clamp(0, 255)
    return _look_up(torch.where(high > low, table, _levels(pixels)), pixels)


def equalize(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Make the histogram of each channel even."""
    index = pixels.flatten(2).long()
    counts = torch.zeros(*pixels.shape[:2], LEVELS, dtype=torch.long, device=pixels.device)
    counts.scatter_add_(2, index, torch.ones_like(index))
    highest = index.amax(2, keepdim=True)
    step = (index.shape[2] - counts.gather(2, highest)) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return _look_up(torch.where(step > 0, table, _levels(pixels).long()), pixels)


def posterize(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Keep the highest bits, as many as the number says."""
    size = 2 ** (8 - _spread(numbers))
    return (pixels / size).floor() * size


def solarize(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Invert what is not below the number."""
    return torch.where(pixels < _spread(numbers), pixels, 255 - pixels)


def affine(pixels: Tensor, numbers: Tensor) -> Tensor:
    """The pixel at (x, y) is read, bilinearly, at (a x + b y + c, d x + e y + f); outside is black.

    Args:
        pixels: see above.
        numbers: (n, 6): a to f, between centres of pixels, which lie at 0.5, 1.5, ...
    """
    height, width = pixels.shape[2:]
    a, b, c, d, e, f = numbers.view(-1, 6, 1, 1).unbind(1)
    x = torch.arange(width, device=pixels.device) + 0.5
    y = (torch.arange(height, device=pixels.device) + 0.5).unsqueeze(1)
    across, down = a * x + b * y + c, d * x + e * y + f
    is_inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    grid = torch.stack((2 * across / width - 1, 2 * down / height - 1), dim=-1)
    read = functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return (read + SLACK).floor() * is_inside.unsqueeze(1)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    operation.__name__: operation
    for operation in (
        *(flip, grey, brightness, contrast, saturation, hue),
        *(autocontrast, equalize, posterize, solarize, affine),
    )
}


def _spread(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


def _blend(other: Tensor, pixels: Tensor, factors: Tensor) -> Tensor:
    return (other + _spread(factors) * (pixels - other)).clamp(0, 255).floor()


def _luma(pixels: Tensor) -> Tensor:
    """(n, 1, H, W) grey values, by whole numbers that float32 holds exactly."""
    red, green, blue = pixels.split(1, dim=1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536).floor()


def _levels(pixels: Tensor) -> Tensor:
    return torch.arange(LEVELS, device=pixels.device, dtype=pixels.dtype)


def _extremes(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, 1) smallest and largest value of each channel."""
    flat = pixels.flatten(2)
    return flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)


def _look_up(table: Tensor, pixels: Tensor) -> Tensor:
    """Each value of a channel replaced by the entry of its (n, 3, 256) table."""
    return table.gather(2, pixels.flatten(2).long()).view_as(pixels).to(pixels.dtype)

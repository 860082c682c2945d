"""Reading images: every mode that Pillow opens becomes 8-bit RGB or a clear error."""

import os
import warnings

import numpy as np
from PIL import Image

_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class BadImageError(ValueError):
    """A file that exists but is not a readable image; the text names its path."""

    def __init__(self, message: str):
        # torch raises a worker's error again, with the worker's traceback in front of the text
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def read_image(path: str | os.PathLike) -> Image.Image:
    """Return the image at `path` in mode RGB.

    Grey, palette, alpha and CMYK images are converted by Pillow (`convert("RGB")`: alpha is
    dropped); 16-bit grey keeps its upper byte, as Pillow does for 16-bit colour. Other integer
    images (mode I) with values up to 255 are taken as they are. Orientation tags are ignored, as
    in the original.

    Raises:
        FileNotFoundError: no such file.
        BadImageError: corrupt, truncated, float-valued, or not an image.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"No image at {path}.")
    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise ValueError("32-bit float pixels have no defined range")
            if image.mode in _DEEP_MODES:
                return _deep_to_rgb(image)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Palette images with Transparency")
                return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as err:
        raise BadImageError(
            f"{path} is not a readable image ({type(err).__name__}: {err}). Replace the file, or "
            "pass --skip-bad-images (DATALOADER.SKIP_BAD_IMAGES True) to leave such images out."
        ) from err


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """Reduce integer grey values of more than 8 bits to their upper byte of 16."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
        raise ValueError("grey values outside of 0..65535")
    if image.mode != "I" or pixels.max(initial=0) > 255:
        pixels = pixels >> 8
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")

"""Reading images: every mode that Pillow opens becomes 8-bit RGB or a clear error.

Regular files of common formats only, up to a number of pixels: a pipe would never end, a few
kilobytes can unfold to gigabytes, and Pillow's rarer formats start other programs.
"""

import errno
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .text_files import another_file

logger = logging.getLogger(__name__)
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "GIF", "TIFF", "WEBP", "JPEG2000")
HEIF = (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"avif", b"avis")  # kinds of photographs
PIXELS_VARIABLE = "VLTUNE_MAX_PIXELS"
MAX_PIXELS = 100_000_000
MAX_BYTES = 2**30  # of a file
FEW_LEVELS = 32  # of 256 that a 16-bit image uses once it has 8 bits
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class BadImageError(ValueError):
    """A file that exists but is not a readable image; the text names its path."""

    def __init__(self, message: str):
        # torch raises a worker's error again, with the worker's traceback in front of the text
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


@contextmanager
def open_regular(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a file for reading, unless it is a pipe, a device or larger than 1 GiB.

    Raises:
        OSError: if it cannot be opened, or is not a regular file.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer

    with open(path, "rb", opener=opener) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > MAX_BYTES:
            reason = f"{status.st_size:,} bytes, at most {MAX_BYTES:,} are read"
            raise OSError(errno.EFBIG, reason, str(path))
        yield file


def max_pixels() -> int:
    """The most pixels that an image may have: VLTUNE_MAX_PIXELS, or 100 million.

    Raises:
        RuntimeError: if the variable is not a positive number.
    """
    given = os.environ.get(PIXELS_VARIABLE) or str(MAX_PIXELS)
    if not given.isdecimal() or not int(given):
        raise RuntimeError(f"{PIXELS_VARIABLE} is {given!r}; expected a number of pixels.")
    return int(given)


def open_image(source: str | os.PathLike | IO[bytes]) -> Image.Image:
    """Pillow's image in a file, not decoded yet.

    Raises:
        OSError: not an image of one of FORMATS.
        ValueError: more pixels than ``max_pixels``.
    """
    limit = max_pixels()
    if PIXELS_VARIABLE in os.environ:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow's own limit would refuse what the user allows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(source, formats=FORMATS)
        except UnidentifiedImageError:  # whose text is the repr of an open file
            raise UnidentifiedImageError(_what_else(source)) from None
    if image.width * image.height > limit:
        pixels = image.width * image.height
        image.close()
        raise ValueError(
            f"it has {pixels:,} pixels, at most {limit:,} are read: resize it, or raise the "
            f"environment variable {PIXELS_VARIABLE}"
        )
    return image


def _what_else(source: str | os.PathLike | IO[bytes]) -> str:
    """What a file is that holds no image."""
    known = f"it is not one of {', '.join(FORMATS)}, or damaged"
    if isinstance(source, (str, os.PathLike)):
        return known
    source.seek(0)
    start = source.read(64)
    if not start:
        return "it is empty: copy or download it again"
    if start[4:8] == b"ftyp" and start[8:12] in HEIF:
        return "it is a HEIC or AVIF photograph: convert it to JPEG"
    what = another_file(start)
    return f"it {what}" if what else known


def read_image(path: str | os.PathLike) -> Image.Image:
    """Return the image at `path` in mode RGB.

    Grey, palette, alpha and CMYK images are converted by Pillow (`convert("RGB")`: alpha is
    dropped); 16-bit grey keeps its upper byte, as Pillow does for 16-bit colour. Other integer
    images (mode I) with values up to 255 are taken as they are. Orientation tags are ignored, as
    in the original; ``upright`` applies them to what is returned here.

    Raises:
        FileNotFoundError: no such file.
        BadImageError: corrupt, truncated, float-valued, too large, or not an image.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"No image at {path}.")
    try:
        with open_regular(path) as file, open_image(file) as image:
            if image.mode == "F":
                raise ValueError("32-bit float pixels have no defined range")
            if image.mode in _DEEP_MODES:
                return _deep_to_rgb(image, path)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Palette images with Transparency")
                return image.convert("RGB")
    except UNREADABLE as err:
        raise BadImageError(
            f"{path} is not a readable image ({type(err).__name__}: {err}). Replace the file, or "
            "pass --skip-bad-images (DATALOADER.SKIP_BAD_IMAGES True) to leave such images out."
        ) from err


def in_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB; without a copy where it is."""
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation tag says; without a tag the same image.

    For photographs of one's own: the published datasets were used as their pixels lie.
    """
    return ImageOps.exif_transpose(image) or image


def _deep_to_rgb(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    """Reduce integer grey values of more than 8 bits to their upper byte of 16."""
    pixels = np.asarray(image).astype(np.int64)
    lowest, highest = int(pixels.min(initial=0)), int(pixels.max(initial=0))
    if lowest < 0 or highest > 65535:
        raise ValueError("grey values outside of 0..65535")
    if image.mode != "I" or highest > 255:
        pixels = pixels >> 8
        if highest >> 8 < FEW_LEVELS:
            _warn_of_few_levels(Path(path), highest)
    rgb = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    rgb.info.update(image.info)  # the orientation is in there
    return rgb


_named: set[Path] = set()  # folders whose dark images this process has named


def _warn_of_few_levels(path: Path, highest: int) -> None:
    if path.parent not in _named:
        _named.add(path.parent)
        logger.warning(
            "%s has 16-bit values up to %d of 65535 only (12-bit data?): at 8 bits it is nearly "
            "black, with %d grey levels. Rescale such images to the whole range; others in %s are "
            "not named.",
            path,
            highest,
            (highest >> 8) + 1,
            path.parent,
        )

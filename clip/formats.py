"""What a file is that should hold weights and does not, by its first bytes, and what to do."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

BEGINNINGS = (  # of files that people take for weights, and what to do with them
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights. Run git lfs pull, or "
     "download the file itself"),
    (b"/annex/objects/", "is a git-annex pointer, not the weights. Run git annex get"),
    (b"<!doctype", "is a web page, not weights: the download was answered by an error page"),
    (b"<html", "is a web page, not weights: the download was answered by an error page"),
    (b"<?xml", "is a web page, not weights: the download was answered by an error page"),
    (b"\x1f\x8b", "is compressed (gzip). Unpack it first"),
    (b"\xfd7zxz", "is compressed (xz). Unpack it first"),
    (b"bzh", "is compressed (bzip2). Unpack it first"),
    (b"gguf", "is a GGUF file. Take the safetensors file of that model"),
    (b"\x89hdf", "is an HDF5 file (Keras). Take the PyTorch weights of that model"),
    (b"\x93numpy", "is an array of NumPy. Take the PyTorch weights of that model"),
    (b"7z\xbc\xaf", "is compressed (7z). Unpack it first"),
    (b"rar!", "is compressed (RAR). Unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd). Unpack it first"),
    (b"\x89png", "is an image, not weights"),
    (b"\xff\xd8\xff", "is an image, not weights"),
    (b"\0\x05\x16\x07", "is what macOS keeps beside a file. Take the file without ._ in its name"),
)  # fmt: skip


def foreign_format(path: Path) -> str:
    """What a file is, the end of a sentence about it; "" where it may be torch's or safetensors."""
    with path.open("rb") as file:
        head = file.read(512)
    start = head.lstrip().lower()
    told = next((what for begin, what in BEGINNINGS if start.startswith(begin)), "")
    if not head:
        return "is empty. Download or copy it again"
    if told:
        return told
    if head[257:262] == b"ustar":
        return "is a tar archive. Unpack it first"
    if head.startswith(b"PK") and not is_zip(path):
        return "is a zip archive without its end: it is truncated. Download or copy it again"
    if head.startswith(b"PK") and (inner := _foreign_entries(path)):
        if inner.endswith(".npy"):
            return "is an archive of NumPy. Take the PyTorch weights of that model"
        return f"is a zip archive with {inner}, not weights of PyTorch. Unpack it first"
    if head.startswith((b"PK", b"\x80")) or starts_as_safetensors(path):
        return ""
    if b"\0" not in head and _is_text(head):
        return "is a text file, not weights"
    return "is in no known format for weights: expected one of PyTorch or safetensors"


def is_zip(path: Path) -> bool:
    """Whether a file is one whole zip archive."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # says that it is a part of several
        return False


def starts_as_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a JSON header, and the header."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def _foreign_entries(path: Path) -> str:
    """The first entries of a zip archive that torch did not write; "" for any other."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile):  # damaged, whatever it was
        return ""
    return (
        "" if any(re.search(r"/data(\.pkl$|/)", name) for name in names) else ", ".join(names[:3])
    )


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

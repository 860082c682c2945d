"""Whether a checkpoint is what was written: flipped bits, and edits that part rows from classes.

A file written by ``torch.save`` holds a CRC-32 of each of its records, which ``torch.load`` does
not read: it is checked here, for files of any origin, and costs nothing to write. Checkpoints hold
a SHA-256 besides, over their tensors together with the class names that the rows belong to, which
shows a list of classes that was edited or reordered by hand.
"""

import hashlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CHECKSUM = "checksum"
TIED = ("classnames", "class_ids")  # lists whose order is that of the rows of tensors
_CHUNK = 2**20  # bytes
SMALL, MOST_TIMES = 2**26, 20  # bytes that any file may unfold to; above, bytes per byte of it
MOST_VALUES, DEEPEST = 10**6, 100  # of a checkpoint's lists and dictionaries, and their levels
_BROKEN = (  # what zipfile raises for archives whose structure is damaged
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


class BombError(ValueError):
    """A small file that stands for much more than it holds."""


def check_archive(fpath: str | os.PathLike) -> None:
    """Refuse a file one of whose records does not fit its CRC-32; other formats are passed over.

    Raises:
        ValueError: naming the file and the record; BombError for one that unfolds without end.
    """
    name = "list"
    try:
        if not zipfile.is_zipfile(fpath):
            return
        with zipfile.ZipFile(fpath) as archive:
            records = archive.infolist()
            check_unfolded(fpath, sum(record.file_size for record in records))
            for record in records:
                name = record.filename
                if record.CRC:  # 0: written without
                    with archive.open(record) as file:
                        while file.read(_CHUNK):
                            pass  # zipfile compares at the end
    except BombError:
        raise
    except _BROKEN as err:
        raise ValueError(
            f'"{fpath}" is damaged: its record {name} is not what was written ({err}). '
            "Copy it again, or delete it and train again."
        ) from err


def check_unfolded(fpath: str | os.PathLike, unfolded: int) -> None:
    """Refuse a file that stands for many times its own bytes: torch compresses nothing.

    Raises:
        BombError
    """
    size = os.path.getsize(fpath)
    if unfolded > max(SMALL, MOST_TIMES * size):
        raise BombError(
            f'"{fpath}" ({size:,} bytes) is not read: it would unfold to {unfolded:,} bytes, more '
            f"than {MOST_TIMES} times its size. Save its tensors again, uncompressed and without "
            "shared memory (tensor.clone())."
        )


def check_size(content: Any, fpath: str | os.PathLike) -> None:
    """Refuse a checkpoint whose tensors repeat their memory, or whose lists hold each other.

    Raises:
        BombError
    """
    count = unfolded = 0
    inner = [(content, 0)]
    while inner:
        value, depth = inner.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise BombError(
                f'"{fpath}" is not read: its lists and dictionaries hold more than {MOST_VALUES:,} '
                f"values, or are nested more than {DEEPEST} levels deep."
            )
        if isinstance(value, Tensor):
            unfolded += value.numel() * value.element_size()
        elif isinstance(value, Mapping):
            inner += ((item, depth + 1) for item in value.values())
        elif isinstance(value, list | tuple | set):
            inner += ((item, depth + 1) for item in value)
    check_unfolded(fpath, unfolded)


def checksum_of(content: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a checkpoint's tensors and of the class names that their rows belong to."""
    digest = hashlib.sha256()
    for key in TIED:
        digest.update(repr(list(content.get(key) or [])).encode())
    for name, value in sorted(content["state_dict"].items()):
        digest.update(f"\n{name}\t".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}\t{tuple(value.shape)}\t".encode())
            digest.update(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def check_content(content: Any, fpath: str | os.PathLike) -> None:
    """Refuse a checkpoint whose tensors or class names are not those that it was written with.

    Raises:
        ValueError: naming the file and what to do.
    """
    if not isinstance(content, dict) or CHECKSUM not in content:
        return  # official files, and those of the first version
    if checksum_of(content) != content[CHECKSUM]:
        raise ValueError(
            f'"{fpath}" was changed after it was written: its tensors or its class names '
            f"({', '.join(TIED)}) are not those of its checksum, so that rows may belong to other "
            f"classes. Copy it again or train again; if the change is meant, remove its entry "
            f'"{CHECKSUM}" as well.'
        )

"""Unpack zip and tar archives that were downloaded: nothing outside the folder, no bombs."""

import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

MOST_BYTES = 500 * 10**9  # unpacked
MOST_ENTRIES = 5_000_000
MOST_TIMES = 200  # unpacked bytes per byte of the archive, above GENEROUS
GENEROUS = 10**9  # bytes that any archive may unfold to
DAMAGED = (
    *(EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(gzip.BadGzipFile, struct.error),
)


def unpack(path: str | Path, folder: str | Path) -> None:
    """Unpack an archive into a folder; all entries are checked first.

    Raises:
        ValueError: not an archive, or one with an entry that leaves the folder, a link, a device,
            or that unfolds to much more than it holds: nothing is unpacked then. A damaged one, or
            one with a password.
    """
    path = Path(path)
    try:
        _unpack(path, folder)
    except DAMAGED as err:
        raise ValueError(f"{path} is damaged ({err}). Delete it to download it again.") from err
    except RuntimeError as err:  # a password, a compression that is not known
        raise ValueError(f"{path} cannot be unpacked here ({err}). Unpack it by hand.") from err


def _unpack(path: Path, folder: str | Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for info in members:
                kind = stat.S_IFMT(info.external_attr >> 16)
                is_special = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
                _check_entry(path, info.filename, is_special=is_special)
            _check_size(path, [info.file_size for info in members])
            archive.extractall(folder)
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            entries = []
            for entry in tar:  # one by one: a bomb ends early
                special = not (entry.isfile() or entry.isdir())
                _check_entry(path, entry.name, is_special=special)
                entries.append(entry.size)
                _check_size(path, entries if len(entries) % 1000 == 0 else entries[-1:])
            _check_size(path, entries)
            _check_end(tar)
            tar.extractall(folder, filter="data")
    else:
        raise ValueError(
            f"{path} is neither a zip nor a tar archive. Delete it to download it again."
        )


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse a tar archive that stops after whole entries, which tarfile takes for its end.

    Raises:
        tarfile.ReadError: if no block of zeros was read after the last entry.
    """
    assert tar.fileobj is not None
    if tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is truncated: it has no end after its last entry")


def _check_entry(path: Path, name: str, *, is_special: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts or ("",))[0]:
        raise ValueError(f"{path} is not unpacked: its entry {name!r} leaves the folder.")
    if is_special:
        raise ValueError(f"{path} is not unpacked: its entry {name!r} is a link or a device.")


def _check_size(path: Path, sizes: list[int]) -> None:
    total = sum(sizes)
    limit = min(MOST_BYTES, max(GENEROUS, MOST_TIMES * path.stat().st_size))
    if total > limit or len(sizes) > MOST_ENTRIES:
        raise ValueError(
            f"{path} is not unpacked: it unfolds to {total:,} bytes in {len(sizes):,} entries; "
            f"{limit:,} are allowed for its size. Unpack it by hand if that is right."
        )

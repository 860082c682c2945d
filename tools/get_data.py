"""Download datasets and arrange them into the trees of DATASETS.md.

    python tools/get_data.py --list
    python tools/get_data.py dtd eurosat --root data
    python tools/get_data.py cupl moco_v3

What is in place is not fetched again. A run that was interrupted resumes. An archive that was
fetched in another way is used from `downloads/<dataset>/files/` below the data root.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import http.client
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from dassl.flags import FlagParser
from dassl.terminal import as_script, as_typed
from dassl.utils.digests import DigestRecord
from tools.data_sources.catalog import IMAGENET_TERMS, RECIPES, split_file
from tools.data_sources.extras import EXTRAS
from tools.data_sources.sources import GIGABYTE, Source

DOWNLOADS = "downloads"  # below the data root
ROOM = 2.2  # times the download: the archives, the images, and what sorting them takes
FAILURES = (OSError, ValueError, RuntimeError, tarfile.TarError, zipfile.BadZipFile,
            http.client.HTTPException)  # fmt: skip


@cache
def reader_of(name: str) -> Any:
    """The class that reads a dataset."""
    import datasets  # noqa: F401  (registers the classes)
    from dassl.data.datasets import DATASET_REGISTRY
    from tools.check_data import known_datasets

    return DATASET_REGISTRY.get(known_datasets()[name])


def get(name: str, root: Path, *, source: str = "", keep: bool = False) -> None:
    """Fetch one dataset unless it is in place, with its published split, and arrange it.

    Args:
        source: "files", "hub" or "torchvision": this kind alone.
        keep: leave the archives in the folder of downloads.

    Raises:
        OSError: if no source sends it, or the disk is too small.
        ValueError: if the set has no source of this kind.
    """
    reader, recipe = reader_of(name), RECIPES[name]
    record = DigestRecord(root / DOWNLOADS)
    pieces = reader.pieces(root)
    needed = [piece for piece in pieces if piece.role == "needed"]
    if all(piece.find() for piece in needed):
        print(f"{name}: in place ({needed[0].find()})")
    else:
        folder = root / DOWNLOADS / name
        sources = _of_kind(name, recipe.sources, source)
        check_room(name, root, recipe.gigabytes, folder)
        names = {reader.config, reader.dataset_dir, reader.__name__}
        _from_first(name, sources, pieces, names, folder, record)
        if not keep:
            shutil.rmtree(folder)
    _add_small_files(name, reader, pieces, record)
    if recipe.note and any(p.role == "split" and not p.find() for p in pieces):
        print(f"{name}: {recipe.note}")


def _of_kind(name: str, sources: Sequence[Source], kind: str) -> list[Source]:
    chosen = [source for source in sources if kind in ("", source.folder)]
    if not chosen:
        kinds = ", ".join(dict.fromkeys(source.folder for source in sources))
        raise ValueError(f"--source {kind}: {name} has sources of the kind {kinds}")
    return chosen


def check_room(name: str, root: Path, gigabytes: float, folder: Path) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        OSError: if the disk has less room than archives and images need.
    """
    root.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    wanted = ROOM * gigabytes - there / GIGABYTE
    free = shutil.disk_usage(root).free / GIGABYTE
    if free < wanted:
        raise OSError(
            f"{root} has {free:.1f} GB free; {name} needs about {wanted:.1f} GB while it is "
            "unpacked. Free some, or give another --root"
        )


def _from_first(
    name: str,
    sources: Iterable[Source],
    pieces: Sequence,
    names: Iterable[str],
    folder: Path,
    record: DigestRecord,
) -> None:
    """Fetch and arrange from the first source that has it."""
    from tools.data_sources import arrange

    problems = []
    for source in sources:
        place = folder / source.folder
        print(f"{name}: from {source.title} to {place}")
        try:
            place.mkdir(parents=True, exist_ok=True)
            source.fetch(place, record, names)
            if not source.is_unpacked:
                arrange.unpack_all(place, record)
            if name in arrange.PREPARE:
                arrange.PREPARE[name](place)
            arrange.place(pieces, place, RECIPES[name].other_names)
            return
        except FAILURES as err:
            problems.append(f"{source.title}: {str(err).rstrip('.')}.")
            print(f"{name}: {problems[-1]}", file=sys.stderr)
    raise OSError(f"no source has sent it. {' '.join(problems)}")


def _add_small_files(name: str, reader: Any, pieces: Sequence, record: DigestRecord) -> None:
    """The published split, and the names of the flowers, where they are not in place."""
    file = split_file(reader.__name__)
    split = next((piece for piece in pieces if piece.role == "split"), None)
    if file and split and not split.find():
        target = split.places[0]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder = record.folder / "splits"
            shutil.move(file.fetch(folder, record), target)
            print(f"{name}: {split.what}: {target}")
        except FAILURES as err:
            print(f"{name}: no {split.what}; it would be rebuilt. {err}.", file=sys.stderr)
    if name == "oxford_flowers":
        from tools.data_sources.arrange import write_flower_names

        write_flower_names(pieces[0].places[0].parent / "cat_to_name.json")


def get_extra(name: str, root: Path) -> None:
    """Fetch files that a method needs beside images.

    Raises:
        OSError: if one could not be fetched.
    """
    extra = EXTRAS[name]
    folder = extra.place(root)
    folder.mkdir(parents=True, exist_ok=True)
    for file in extra.files:
        file.fetch(folder, DigestRecord(folder))
    print(f"{name}: {folder}")


def print_list() -> None:
    """Every dataset with size, licence and sources."""
    from tabulate import tabulate

    rows = [
        (name, f"{recipe.gigabytes:g} GB", recipe.licence,
         "; ".join(dict.fromkeys(source.title for source in recipe.sources)))
        for name, recipe in RECIPES.items()
    ]  # fmt: skip
    rows += [
        (name, f"{sum(file.gigabytes for file in extra.files):.1g} GB", extra.licence, extra.use)
        for name, extra in EXTRAS.items()
    ]
    rows.append(("imagenet", "144 GB", "research, non-commercial", "by hand, see below"))
    print(tabulate(rows, headers=("name", "download", "licence", "sources, in order")))
    print(f"\n{IMAGENET_TERMS}\nLicences are as the authors state them: check them before use.")


def main(args: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    known = [*RECIPES, *EXTRAS]
    parser = FlagParser(description="Download datasets and arrange them.")
    parser.add_argument("datasets", nargs="*", help=f"of: {', '.join(known)}")
    parser.add_argument(
        "--root",
        default=os.environ.get("DATA", "data"),
        help="folder that holds all datasets (default: environment variable DATA, or ./data)",
    )
    parser.add_argument("--list", action="store_true", help="sizes, licences and sources")
    parser.add_argument(
        "--source", default="", choices=["", "files", "hub", "torchvision"], help="this kind alone"
    )
    parser.add_argument("--keep", action="store_true", help="keep the archives")
    options = parser.parse_args(args)
    if options.list or not options.datasets:
        print_list()
        return 0 if options.list else 2
    unknown = [name for name in options.datasets if name not in [*known, "imagenet"]]
    if unknown:
        print(
            f'"{unknown[0]}" cannot be downloaded by this tool. It knows: {", ".join(known)}. '
            "DATASETS.md lists sources of others.",
            file=sys.stderr,
        )
        return 2
    root = Path(options.root).expanduser().absolute()
    failed = [name for name in options.datasets if not _try(name, root, options)]
    checked = [name for name in options.datasets if name not in EXTRAS]
    if checked:
        print(as_typed(f"Check: python tools/check_data.py {' '.join(checked)} --root {root}"))
    return 1 if failed else 0


def _try(name: str, root: Path, options: argparse.Namespace) -> bool:
    """Whether a dataset is there now; says why not."""
    if name == "imagenet":
        print(IMAGENET_TERMS, file=sys.stderr)
        return False
    try:
        if name in EXTRAS:
            get_extra(name, root)
        else:
            get(name, root, source=options.source, keep=options.keep)
    except FAILURES as err:
        text = str(err).rstrip(".")
        print(f"{name}: {text}. DATASETS.md lists other sources.", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    as_script(main)

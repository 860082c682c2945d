"""From what a source sent to the tree of DATASETS.md: what the readers look for decides."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from dassl.utils.archives import unpack
from dassl.utils.digests import DigestRecord
from datasets.files import Piece

from .selection import camera_places, remove_duplicates, sort_camera_images
from .sources import ARCHIVES

DEPTH = 6  # folders that an archive may wrap around what is looked for
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")  # of DomainNet
UNPACKED = "unpacked"  # folder beside the archives


def unpack_all(folder: Path, record: DigestRecord) -> None:
    """Unpack every archive directly in `folder`, or in a folder of it, into `folder/unpacked`.

    Raises:
        ValueError: not an archive, a damaged one, or not a safe one; `record` forgets it.
    """
    target = folder / UNPACKED
    shutil.rmtree(target, ignore_errors=True)  # an interrupted run's
    archives = [*folder.glob("*"), *folder.glob("*/*")]
    for path in sorted(path for path in archives if path.suffix in ARCHIVES and path.is_file()):
        target.mkdir(exist_ok=True)
        try:
            unpack(path, target)
        except ValueError:
            record.forget(path)
            raise


def find(tree: Path, names: Sequence[str]) -> Path | None:
    """The file or folder with one of these names that is least deep below `tree`."""
    level = [tree]
    for _ in range(DEPTH):
        entries = [Path(entry) for folder in level for entry in sorted(_entries(folder))]
        for name in names:
            found = next((path for path in entries if path.name == name), None)
            if found is not None:
                return found
        level = [path for path in entries if path.is_dir()]
    return None


def _entries(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.path for entry in entries if entry.name != "__MACOSX"]


def place(pieces: Sequence[Piece], folder: Path, other_names: dict[str, str]) -> None:
    """Move what the readers need, and what else they would read, from a download to its place.

    Args:
        pieces: of the dataset; those that are in place stay.
        folder: the download.
        other_names: what the source calls a piece -> the name of its place.

    Raises:
        FileNotFoundError: if a needed piece is not in the download.
    """
    for piece in pieces:
        target = piece.places[0]
        if piece.find() is not None:
            continue
        theirs = [name for name, ours in other_names.items() if ours == target.name]
        source = find(folder, [target.name, *theirs])
        if source is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)
            print(f"  {piece.what}: {target}")
        elif piece.role == "needed":
            looked = " or ".join([target.name, *theirs])
            raise FileNotFoundError(
                f"the download in {folder} has no {looked} ({piece.what}); it belongs to {target}. "
                "Arrange it by hand as DATASETS.md shows"
            )


def prepare_terra_incognita(folder: Path) -> None:
    """Chosen locations and classes in `terra_incognita`, from images and annotations."""
    images = find(folder, ["eccv_18_all_images_sm"])
    files = [path for path in folder.rglob("*.json") if images not in path.parents]
    if images is None or not files:
        raise FileNotFoundError(f"{folder} does not hold both camera images and annotations")
    stage = folder / UNPACKED / "terra_incognita"
    missing = sort_camera_images(images, camera_places(files), stage)
    if missing:
        print(f"  {missing:,} annotated images are not in the archive")


def prepare_domain_net(folder: Path) -> None:
    """The six domains in `domain_net`, without the duplicates."""
    stage = folder / UNPACKED / "domain_net"
    stage.mkdir()
    for name in DOMAINS:
        domain = folder / UNPACKED / name
        if not domain.is_dir():
            raise FileNotFoundError(f"{folder / UNPACKED} has no folder {name}")
        domain.replace(stage / name)
    removed = remove_duplicates(stage, folder / "domain_net_duplicates.txt")
    print(f"  {removed:,} duplicates removed")


def write_flower_names(path: Path) -> None:
    """1-based label -> flower name, as the reader of OxfordFlowers expects it."""
    if path.exists():
        return
    from torchvision.datasets import Flowers102

    if not hasattr(Flowers102, "classes"):
        raise RuntimeError(
            f"This torchvision has no names of the flowers, so {path} could not be written: "
            "update torchvision."
        )
    names = {str(i): name.rstrip("?") for i, name in enumerate(Flowers102.classes, start=1)}
    path.write_text(json.dumps(names), encoding="utf-8")


PREPARE: dict[str, Callable[[Path], None]] = {
    "terra_incognita": prepare_terra_incognita,
    "domain_net": prepare_domain_net,
}

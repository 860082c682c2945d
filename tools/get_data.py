"""Download datasets with torchvision and arrange them into the trees of DATASETS.md.

    python tools/get_data.py dtd eurosat --root data

Nothing that is already in place is fetched or overwritten. The published split files
(split_zhou_*.json) are not part of these downloads: put them into the dataset folder to get the
published splits; without them a split is rebuilt.
"""

import json
import os
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dassl.flags import FlagParser

DOWNLOADS = "downloads"  # below the data root: what torchvision fetched


@dataclass(frozen=True)
class Recipe:
    """How to get one dataset.

    Attributes:
        fetch: downloads into a folder with torchvision.
        moves: path below the download -> path below the data root.
        note: what the download lacks.
    """

    fetch: Callable[[Path], object]
    moves: dict[str, str]
    note: str = ""


def _torchvision(name: str, *settings: dict) -> Callable[[Path], object]:
    """A function that constructs a torchvision dataset with download=True, once per setting."""

    def fetch(folder: Path) -> None:
        from torchvision import datasets as sources

        for kwargs in settings or ({},):
            getattr(sources, name)(str(folder), download=True, **kwargs)

    return fetch


AIRCRAFT_FILES = (
    "images",
    "variants.txt",
    "images_variant_train.txt",
    "images_variant_val.txt",
    "images_variant_test.txt",
)
FLOWER_NOTE = "cat_to_name.json is written from torchvision's class names."

RECIPES = {
    "caltech101": Recipe(
        _torchvision("Caltech101"),
        {"caltech101/101_ObjectCategories": "caltech-101/101_ObjectCategories"},
    ),
    "oxford_pets": Recipe(
        _torchvision("OxfordIIITPet", {"split": "trainval"}),
        {
            "oxford-iiit-pet/images": "oxford_pets/images",
            "oxford-iiit-pet/annotations": "oxford_pets/annotations",
        },
    ),
    "oxford_flowers": Recipe(
        _torchvision("Flowers102"),
        {
            "flowers-102/jpg": "oxford_flowers/jpg",
            "flowers-102/imagelabels.mat": "oxford_flowers/imagelabels.mat",
        },
        FLOWER_NOTE,
    ),
    "food101": Recipe(_torchvision("Food101"), {"food-101/images": "food-101/images"}),
    "fgvc_aircraft": Recipe(
        _torchvision("FGVCAircraft"),
        {f"fgvc-aircraft-2013b/data/{name}": f"fgvc_aircraft/{name}" for name in AIRCRAFT_FILES},
    ),
    "dtd": Recipe(_torchvision("DTD"), {"dtd/dtd/images": "dtd/images"}),
    "eurosat": Recipe(_torchvision("EuroSAT"), {"eurosat/2750": "eurosat/2750"}),
    "sun397": Recipe(
        _torchvision("SUN397"),
        {"SUN397": "sun397/SUN397"},
        "Rebuilding the split also needs Training_01.txt and Testing_01.txt (Partitions.zip of the "
        "SUN project) in sun397/.",
    ),
}


def get(name: str, root: Path) -> None:
    """Fetch one dataset unless it is in place, arrange it, and say what is still missing.

    Raises:
        FileNotFoundError: if the download does not hold what was expected.
    """
    recipe = RECIPES[name]
    targets = [root / target for target in recipe.moves.values()]
    if all(target.exists() for target in targets):
        print(f"{name}: in place ({targets[0]})")
    else:
        folder = root / DOWNLOADS / name
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{name}: downloading to {folder}")
        recipe.fetch(folder)
        arrange(name, folder, root)
    if name == "oxford_flowers":
        write_flower_names(root / "oxford_flowers" / "cat_to_name.json")
    if recipe.note:
        print(f"{name}: {recipe.note}")


def arrange(name: str, folder: Path, root: Path) -> None:
    """Move a download's folders to the places where the readers look."""
    for source, target in RECIPES[name].moves.items():
        origin, place = folder / source, root / target
        if place.exists():
            continue
        if not origin.exists():
            raise FileNotFoundError(
                f"{name}: torchvision's download has no {origin}. Arrange it by hand as "
                f"DATASETS.md shows: it belongs to {place}."
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(origin), str(place))
        print(f"{name}: {place}")


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


def main(args: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = FlagParser(description="Download datasets and arrange them.")
    parser.add_argument("datasets", nargs="+", help=f"of: {', '.join(RECIPES)}")
    parser.add_argument(
        "--root",
        default=os.environ.get("DATA", "data"),
        help="folder that holds all datasets (default: environment variable DATA, or ./data)",
    )
    options = parser.parse_args(args)
    unknown = [name for name in options.datasets if name not in RECIPES]
    if unknown:
        print(
            f'"{unknown[0]}" cannot be downloaded by this tool. It knows: {", ".join(RECIPES)}. '
            "For the others DATASETS.md lists sources.",
            file=sys.stderr,
        )
        return 2
    root = Path(options.root).expanduser().absolute()
    failed = []
    for name in options.datasets:
        try:
            get(name, root)
        except (OSError, RuntimeError, tarfile.TarError, zipfile.BadZipFile) as err:
            print(f"{name}: {err} DATASETS.md lists other sources.", file=sys.stderr)
            failed.append(name)
    print(f"Check: python tools/check_data.py {' '.join(options.datasets)} --root {root}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

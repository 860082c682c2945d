"""A contact sheet of the toy world as PNG, or of one toy set; and the digests of all sets.

python tools/toy_world/show.py                          # factors and styles -> toy_world.png
python tools/toy_world/show.py --set toy_objects        # three images of every class
python tools/toy_world/show.py --write-digests          # after a definition was changed on purpose
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

from dassl.flags import FlagParser
from datasets.toy_world import FACTORS, STYLES, render, sample_scenes
from datasets.toy_world.store import SET_NAMES, digest_of, digests, splits

COLUMNS = 20
DIGESTS = Path(__file__).resolve().parents[2] / "datasets" / "toy_world" / "digests.json"


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """(N, H, W, 3) -> one image with ``columns`` per row; what is missing stays white."""
    rows = -(-len(images) // columns)
    side = images.shape[1]
    sheet = np.full((rows * columns, side, side, 3), 255, dtype=np.uint8)
    sheet[: len(images)] = images
    sheet = sheet.reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * side, columns * side, 3)


def world_sheet(seed: int) -> np.ndarray:
    """One row per factor (its values from left to right), then one row per style."""
    rng = np.random.RandomState(seed)
    rows = []
    for name in ("shape", "color", "texture", "background", "size", "position"):
        values = np.arange(COLUMNS) % len(FACTORS[name])
        fixed = {"style": np.zeros(COLUMNS, dtype=np.int64), name: values}
        rows.append(render(sample_scenes(rng, COLUMNS, fixed=fixed)))
    for style in range(len(STYLES)):
        fixed = {"style": np.full(COLUMNS, style), "shape": np.arange(COLUMNS)}
        rows.append(render(sample_scenes(rng, COLUMNS, fixed=fixed)))
    return tile(np.concatenate(rows), COLUMNS)


def set_sheet(name: str, per_class: int) -> np.ndarray:
    """The first images of every class in the first split; domains: of every domain."""
    picked: list[np.ndarray] = []
    for split, labels, images in splits(name):
        if split in ("train", "test", *STYLES) and (not picked or split in STYLES):
            for label in range(int(labels.max()) + 1):
                picked.append(images[labels == label][:per_class])
    return tile(np.concatenate(picked), per_class * 5)


def write_digests() -> None:
    """Render every set and write its digest."""
    fresh = {}
    for name in SET_NAMES:
        fresh[name] = digest_of(name)
        print(name, fresh[name], "" if fresh[name] == digests().get(name) else "(changed)")
    DIGESTS.write_text(json.dumps(fresh, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write the sheet or the digests."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SET_NAMES, help="a toy set instead of the whole world")
    parser.add_argument("--per-class", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("toy_world.png"))
    parser.add_argument("--zoom", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write-digests", action="store_true")
    args = parser.parse_args()
    others = ("set", "per_class", "out", "zoom", "seed")
    if args.write_digests:
        parser.refuse(args, others, "beside --write-digests, which draws no sheet")
        write_digests()
        return
    if args.set:
        parser.refuse(args, ("seed",), "with --set, whose images are fixed")
    else:
        parser.refuse(args, ("per_class",), "without --set")
    sheet = set_sheet(args.set, args.per_class) if args.set else world_sheet(args.seed)
    sheet = sheet.repeat(args.zoom, axis=0).repeat(args.zoom, axis=1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(args.out)
    print(f"{args.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")


if __name__ == "__main__":
    main()

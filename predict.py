"""Classify images of your own with a tuned model, or zero-shot with any backbone.

python predict.py --model-dir output/fewshot/toy_objects/TaskRes/toy_16shots/seed1 photo.jpg
python predict.py --backbone ViT-B/16 --classnames "cat,dog,red panda" images/
"""

import argparse
import csv
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from dassl.utils import did_you_mean, load_checkpoint, read_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path, help="image files or folders")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-dir", type=Path, help="directory of a finished run")
    model.add_argument("--backbone", help="zero-shot: name of a backbone")
    parser.add_argument("--load-epoch", type=int, help="epoch to load (default: the last saved)")
    parser.add_argument("--classnames", help="zero-shot: names separated by commas, or a text file")
    parser.add_argument("--template", action="append", help="zero-shot: sentence with one {}")
    parser.add_argument("--topk", type=int, default=3, help="classes to print per image")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="also write a .csv or .json file")
    return parser.parse_args(argv)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Image files among the given files and below the given folders, sorted per folder.

    Raises:
        FileNotFoundError: for a path that does not exist, or a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise FileNotFoundError(f"No image or folder {path}.")
        below = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not below:
            kinds = ", ".join(f"*{suffix}" for suffix in IMAGE_SUFFIXES)
            raise FileNotFoundError(f"No images under {path}. Looked for {kinds}.")
        found += below
    return found


def find_checkpoint(model_dir: Path, epoch: int | None) -> Path:
    """The checkpoint file of a run's only registered model.

    Raises:
        FileNotFoundError: if the directory holds no checkpoint.
    """
    from trainers.common.loading import checkpoint_path

    folders = sorted(p.parent for p in model_dir.glob("*/checkpoint"))
    if not folders:
        raise FileNotFoundError(
            f"No checkpoint under {model_dir}. --model-dir takes the directory of a finished run, "
            "the one that holds results.json."
        )
    return checkpoint_path(model_dir, folders[0].name, epoch)


def tuned_predictor(model_dir: Path, epoch: int | None, device: torch.device):
    """The predictor of a run's checkpoint."""
    from dassl.engine import TRAINER_REGISTRY

    importlib.import_module("trainers")  # registers every trainer

    path = find_checkpoint(model_dir, epoch)
    checkpoint = load_checkpoint(str(path))
    known = TRAINER_REGISTRY.registered_names()
    name = checkpoint.get("trainer")
    if name not in known:
        raise ValueError(
            f"{path} was written by {name or 'other code'}, which is no trainer of this package"
            f"{did_you_mean(name, known) if name else ''}. predict.py needs a checkpoint of ours."
        )
    return TRAINER_REGISTRY.get(name).load_predictor(checkpoint, device)


def zero_shot_predictor(args: argparse.Namespace, device: torch.device):
    """A zero-shot classifier for the class names of the command line."""
    from clip import load_backbone
    from dassl.config import get_cfg_default
    from trainers.common.predictor import method_predictor
    from trainers.common.templates import DEFAULT_TEMPLATE, check_templates
    from trainers.zeroshot import ZeroshotClassifier, ZeroshotCLIP

    if not args.classnames:
        raise ValueError(
            '--backbone needs --classnames, as "cat,dog,red panda", or a file with one per line.'
        )
    as_file = Path(args.classnames)
    text = as_file.read_text(encoding="utf-8") if as_file.is_file() else args.classnames
    separator = "\n" if as_file.is_file() else ","
    classnames = [name.strip() for name in text.split(separator) if name.strip()]
    clip = load_backbone(args.backbone, device=device)
    templates = check_templates(args.template or [DEFAULT_TEMPLATE])
    method = ZeroshotClassifier(clip, classnames, templates)
    return method_predictor(ZeroshotCLIP, get_cfg_default(), clip, method, classnames)


def predict(
    predictor, paths: Sequence[Path], batch_size: int
) -> Iterator[tuple[Path, torch.Tensor]]:
    """Yield (path, (C,) probabilities) for every image."""
    from trainers.common.predictor import pixels_of

    for first in range(0, len(paths), batch_size):
        batch = paths[first : first + batch_size]
        pixels = pixels_of([read_image(str(path)) for path in batch], predictor.size)
        yield from zip(batch, predictor(pixels).cpu())


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write predictions as CSV or JSON, by the file's ending.

    Raises:
        ValueError: for another ending.
    """
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=["image", "rank", "class", "probability"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        raise ValueError(f"--output is {path}; expected a file ending in .csv or .json.")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    if args.topk < 1:
        raise ValueError(f"--topk is {args.topk}; expected at least 1.")
    paths = find_images(args.images)
    device = torch.device(args.device)
    if args.model_dir:
        predictor = tuned_predictor(args.model_dir, args.load_epoch, device)
    else:
        predictor = zero_shot_predictor(args, device)
    rows = []
    for path, probabilities in predict(predictor, paths, args.batch_size):
        top = probabilities.topk(min(args.topk, len(predictor.classnames)))
        for rank, (value, label) in enumerate(zip(top.values.tolist(), top.indices.tolist()), 1):
            name = predictor.classnames[label]
            rows.append(
                {"image": str(path), "rank": rank, "class": name, "probability": round(value, 6)}
            )
    shown = [{**row, "probability": f"{100 * row['probability']:.1f} %"} for row in rows]
    print(tabulate(shown, headers="keys"))
    if args.output:
        write_rows(args.output, rows)
        print(f"Written to {args.output}")


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"predict.py: {error}")

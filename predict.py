"""Classify images of your own with a tuned model, or zero-shot with any backbone.

python predict.py --model-dir output/fewshot/toy_objects/TaskRes/toy_16shots/seed1 photo.jpg
python predict.py --backbone ViT-B/16 --classnames "cat,dog,red panda" images/
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dassl.flags import FlagParser
from dassl.terminal import log_safely, printable, show_anything
from dassl.utils.image_files import IMAGE_SUFFIXES, LeftOut, images_below
from dassl.utils.places import explain
from dassl.utils.text import cell, did_you_mean
from dassl.utils.text_files import is_text_file, read_names

if TYPE_CHECKING:  # torch is imported once the command line is known to be sound
    import torch

    from dassl.engine.predictor import Predictor

OUTPUT_SUFFIXES = (".csv", ".json")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path, help="image files or folders")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model-dir", type=Path, help="directory of a finished run")
    model.add_argument("--backbone", help="zero-shot: name of a backbone")
    parser.add_argument(
        "--activation",
        default="",
        choices=("quick_gelu", "gelu"),
        help="zero-shot: of a weights file that does not tell",
    )
    parser.add_argument("--load-epoch", type=int, help="epoch to load (default: the last saved)")
    parser.add_argument("--classnames", help="zero-shot: names separated by commas, or a text file")
    parser.add_argument(
        "--template", action="append", help="zero-shot: sentence with one {}, or a file of such"
    )
    parser.add_argument("--topk", type=int, default=3, help="classes to print per image")
    parser.add_argument("--batch-size", type=int, default=64, help="images encoded at a time")
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)"
    )
    parser.add_argument("--output", type=Path, help="also write a .csv or .json file")
    parser.add_argument(
        "--skip-bad-images", action="store_true", help="leave out unreadable images, naming them"
    )
    args = parser.parse_args(argv)
    check_args(args)
    return args


def check_args(args: argparse.Namespace) -> None:
    """Refuse what could only be ignored, before any work.

    Raises:
        ValueError: naming the option.
    """
    for option in ("topk", "batch_size"):
        if getattr(args, option) < 1:
            flag = f"--{option.replace('_', '-')}"
            raise ValueError(f"{flag} is {getattr(args, option)}; expected at least 1.")
    if args.output and args.output.suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"--output is {args.output}; expected a file ending in .csv or .json.")
    if args.model_dir and (args.classnames or args.template or args.activation):
        raise ValueError(
            "--classnames, --template and --activation belong to --backbone (zero-shot). A tuned "
            "model knows the classes and the activation that it was trained with."
        )
    if args.backbone and args.load_epoch is not None:
        raise ValueError("--load-epoch belongs to --model-dir.")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Image files among the given files and below the given folders, sorted per folder.

    Other files below a folder are named in a warning; hidden folders are not entered.

    Raises:
        FileNotFoundError: for a path that does not exist, or a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"No image or folder {path}.")
        if not path.is_dir():
            found.append(path)
            continue
        left_out = LeftOut()
        below = sorted(map(Path, images_below(path, left_out)))
        left_out.warn(path)
        if not below:
            kinds = ", ".join(f"*{suffix}" for suffix in IMAGE_SUFFIXES)
            raise FileNotFoundError(f"No images under {path}. Looked for {kinds}.")
        found += below
    return found


def checkpoint_of(model_dir: Path, epoch: int | None) -> Path:
    """The checkpoint file of a run's only registered model.

    Raises:
        FileNotFoundError: if the directory holds no checkpoint.
    """
    from dassl.engine.checkpoints import find_checkpoint

    try:
        return find_checkpoint(model_dir, epoch=epoch)
    except FileNotFoundError as err:
        if any(model_dir.glob("*/checkpoint")):  # a run, which keeps others
            raise
        text = f"No checkpoint under {model_dir}. {way_to_model(model_dir)}"
        raise FileNotFoundError(text) from err


def way_to_model(model_dir: Path) -> str:
    """What to give in place of a folder without checkpoint."""
    from dassl.engine.near_runs import runs_near

    if (model_dir / "results.json").is_file():
        return (
            "That run trained nothing. For a zero-shot classifier give --backbone NAME and "
            "--classnames; for a model that was only evaluated there, the folder of its training."
        )
    takes = "--model-dir takes the directory of a finished run, the one that holds results.json"
    return f"{takes}. {runs_near(model_dir)}".rstrip()


def tuned_predictor(model_dir: Path, epoch: int | None, device: torch.device) -> Predictor:
    """The predictor of a run's checkpoint."""
    from dassl.engine import TRAINER_REGISTRY
    from dassl.utils import load_checkpoint

    importlib.import_module("trainers")  # makes every trainer known

    path = checkpoint_of(model_dir, epoch)
    checkpoint = load_checkpoint(str(path))
    known = TRAINER_REGISTRY.registered_names()
    name = checkpoint.get("trainer")
    if name not in known:
        raise ValueError(
            f"{path} was written by {name or 'other code'}, which is not a trainer of this package"
            f"{did_you_mean(name, known) if name else ''}. predict.py needs a checkpoint of ours."
        )
    return TRAINER_REGISTRY.get(name).load_predictor(checkpoint, device)


def zero_shot_predictor(
    backbone: str,
    classnames: Sequence[str],
    device: torch.device,
    *,
    templates: Sequence[str] = (),
    activation: str = "",
) -> Predictor:
    """A zero-shot classifier for class names."""
    from clip import load_backbone
    from dassl.config import get_cfg_default
    from trainers.common.clip_encoder import backbone_view
    from trainers.common.predictor import method_predictor
    from trainers.common.text.encode import zero_shot_classifier
    from trainers.common.text.templates import DEFAULT_TEMPLATE, check_templates
    from trainers.zeroshot import ZeroshotClassifier, ZeroshotCLIP

    templates = check_templates(list(templates) or [DEFAULT_TEMPLATE], given_as="--template")
    clip = load_backbone(backbone, device=device, activation=activation)
    method = ZeroshotClassifier(zero_shot_classifier(clip, classnames, templates))
    view = backbone_view(clip).test.build()
    return method_predictor(ZeroshotCLIP, get_cfg_default(), clip, method, classnames, view=view)


def names_given(args: argparse.Namespace) -> list[str]:
    """The class names of the command line.

    Raises:
        ValueError: fewer than two.
    """
    if not args.classnames:
        raise ValueError(
            '--backbone needs --classnames, as "cat,dog,red panda", or a file with one per line.'
        )
    classnames = read_names(args.classnames, "--classnames")
    if len(classnames) < 2:
        kind = "holds" if is_text_file(args.classnames) else "is not a file and gives"
        raise ValueError(
            f"--classnames {args.classnames} {kind} {len(classnames)} name(s). Expected two or "
            'more, as "cat,dog,red panda", or a file with one per line.'
        )
    return classnames


def predict(
    predictor, paths: Sequence[Path], batch_size: int, *, skip_bad_images: bool = False
) -> Iterator[tuple[Path, torch.Tensor]]:
    """Yield (path, (C,) probabilities) for every image.

    Raises:
        BadImageError: a file is not a readable image (unless such files are skipped).
    """
    from dassl.utils import BadImageError, read_image, upright

    for first in range(0, len(paths), batch_size):
        images = {}
        for path in paths[first : first + batch_size]:
            try:
                images[path] = upright(read_image(path))
            except BadImageError as err:
                if not skip_bad_images:
                    raise
                text = f"Left out, no readable image: {path} ({err.__cause__})"
                print(printable(text), file=sys.stderr)
        if images:
            pixels = predictor.pixels(list(images.values()))
            yield from zip(images, predictor(pixels).cpu())


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write predictions as CSV or JSON, by the file's ending (one of OUTPUT_SUFFIXES)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
        return
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    paths = find_images(args.images)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads, see train.py
    import torch
    from tabulate import tabulate

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.model_dir:
        predictor = tuned_predictor(args.model_dir, args.load_epoch, device)
    else:
        predictor = zero_shot_predictor(
            args.backbone,
            names_given(args),
            device,
            templates=args.template or (),
            activation=args.activation,
        )
    rows = []
    predictions = predict(predictor, paths, args.batch_size, skip_bad_images=args.skip_bad_images)
    for path, probabilities in predictions:
        top = probabilities.topk(min(args.topk, len(predictor.classnames)))
        for rank, (value, label) in enumerate(zip(top.values.tolist(), top.indices.tolist()), 1):
            rows.append(
                {
                    "image": str(path),
                    "rank": rank,
                    "label": label,  # tells classes of the same name apart
                    "class": predictor.classnames[label],
                    "probability": round(value, 6),
                }
            )
    if not rows:
        raise ValueError(f"None of the {len(paths)} images can be read.")
    show_anything()
    if args.output:  # first: a console may fail
        write_rows(args.output, rows)
    shown = [{**row, "probability": f"{100 * row['probability']:.1f} %"} for row in rows]
    print(printable(tabulate(shown, headers="keys")))
    if args.output:
        print(printable(f"Written to {args.output}"))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    log_safely()
    try:
        main()
    except (OSError, ImportError, RuntimeError, ValueError, FloatingPointError) as error:
        if os.environ.get("VLTUNE_TRACEBACK"):
            raise
        sys.exit(printable(f"predict.py: {explain(error)}"))

"""Classify images of your own with a tuned model, or zero-shot with any backbone.

python predict.py --model-dir output/fewshot/toy_objects/TaskRes/toy_16shots/seed1 photo.jpg
python predict.py --backbone ViT-B/16 --classnames "cat,dog,red panda" images/
find photos -name "*.jpg" | python predict.py --model-dir RUN --csv - - > answers.csv
"""

from __future__ import annotations

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dassl.flags import FlagParser
from dassl.terminal import as_script, log_safely, printable, show_anything
from dassl.utils.image_files import IMAGE_SUFFIXES, LeftOut, images_below
from dassl.utils.interrupts import exit_status
from dassl.utils.text import did_you_mean
from dassl.utils.text_files import is_text_file, read_json, read_lines
from tools.predicted_rows import Row, ranked, shown, streaming, write_rows

if TYPE_CHECKING:  # torch is imported once the command line is known to be sound
    import torch

    from dassl.engine.predictor import Predictor
    from dassl.evaluation.calibration import Calibration

logger = logging.getLogger("predict")
OUTPUT_SUFFIXES = (".csv", ".json")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of this script."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        help="image files, folders, .txt files with a path per line, - for such lines from stdin",
    )
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
    parser.add_argument("--classnames", help="names separated by commas, or a text file")
    parser.add_argument(
        "--template", action="append", help="zero-shot: sentence with one {}, or a file of such"
    )
    parser.add_argument("--topk", type=int, default=3, help="classes to print per image")
    parser.add_argument("--batch-size", type=int, default=64, help="images encoded at a time")
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)"
    )
    parser.add_argument(
        "--output", type=Path, help="also write a .csv or .json file, a row per image and class"
    )
    stream = parser.add_mutually_exclusive_group()
    stream.add_argument("--csv", metavar="FILE", help="a row per image, as they come; - for stdout")
    stream.add_argument("--json", metavar="FILE", help="the same, a JSON object per line")
    parser.add_argument(
        "--reject", type=float, metavar="P", help="mark images whose best class is less probable"
    )
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
    if args.reject is not None and not 0 < args.reject < 1:
        raise ValueError(f"--reject is {args.reject:g}; expected a probability between 0 and 1.")
    if args.model_dir and (args.template or args.activation):
        raise ValueError(
            "--template and --activation belong to --backbone (zero-shot). A tuned model knows "
            "the sentences and the activation that it was trained with."
        )
    if args.backbone and args.load_epoch is not None:
        raise ValueError("--load-epoch belongs to --model-dir.")


def expanded(paths: Sequence[Path]) -> Iterator[Path]:
    """The given paths, with those that a list names in the place of the list.

    Paths in a list are relative to the current folder, or else to the list's.

    Raises:
        ValueError: a list without a path.
        FileNotFoundError: a list with paths that do not exist; names the first of them.
    """
    for path in paths:
        if str(path) == "-":
            listed = [Path(line.strip()) for line in sys.stdin if line.strip()]
        elif path.suffix == ".txt" and path.is_file():
            lines = [Path(line.text) for line in read_lines(path)]
            listed = [line if line.exists() else path.parent / line for line in lines]
        else:
            yield path
            continue
        where = "stdin" if str(path) == "-" else path
        if not listed:
            raise ValueError(f"{where} names no image; expected a path per line.")
        missing = [image for image in listed if not image.exists()]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(listed)} paths in {where} do not exist, the first is "
                f"{missing[0]}. Expected images or folders, one path per line."
            )
        yield from listed


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Image files among the given files and below the given folders, sorted per folder.

    Other files below a folder are named in a warning; hidden folders are not entered.

    Raises:
        FileNotFoundError: for a path that does not exist, or a folder without images.
    """
    found: list[Path] = []
    for path in expanded(paths):
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
    from dassl.engine.state.checkpoints import find_checkpoint

    try:
        return find_checkpoint(model_dir, epoch=epoch)
    except FileNotFoundError as err:
        if any(model_dir.glob("*/checkpoint")):  # a run, which keeps others
            raise
        text = f"No checkpoint under {model_dir}. {way_to_model(model_dir)}"
        raise FileNotFoundError(text) from err


def way_to_model(model_dir: Path) -> str:
    """What to give in place of a folder without checkpoint."""
    from dassl.engine.state.near_runs import runs_near

    if (model_dir / "results.json").is_file():
        return (
            "That run trained nothing. For a zero-shot classifier give --backbone NAME and "
            "--classnames; for a model that was only evaluated there, the folder of its training."
        )
    takes = "--model-dir takes the directory of a finished run, the one that holds results.json"
    return f"{takes}. {runs_near(model_dir)}".rstrip()


def tuned_predictor(
    model_dir: Path, epoch: int | None, device: torch.device, classnames: Sequence[str] = ()
) -> Predictor:
    """The predictor of a run's checkpoint; for other classes where the method serves any.

    A bundle (``vltune export``) serves as well, for its own classes.
    """
    from trainers.common.bundle import is_bundle, load_bundle

    if is_bundle(model_dir):
        if classnames or epoch is not None:
            raise ValueError(
                f"{model_dir} is a bundle, which holds one classifier of fixed classes: "
                "--classnames and --load-epoch have no effect. Leave them out."
            )
        return load_bundle(model_dir, device)
    from dassl.engine.state.checkpoints import errors_name

    trainer, checkpoint = trained(model_dir, epoch)
    if not classnames:
        with errors_name(model_dir):
            predictor = trainer.load_predictor(checkpoint, device)
        return replace(predictor, calibration=calibration_of(trainer, checkpoint, model_dir))
    from dassl.evaluation.calibration import OTHER_CLASSES, no_temperature
    from trainers.common import ClipTrainer
    from trainers.common.predictor import clip_predictor

    if not issubclass(trainer, ClipTrainer):
        raise ValueError(
            f"{trainer.__name__} keeps an image network without a text encoder, so --classnames "
            "cannot be read here. Leave it out; python tools/export.py --classnames makes a file "
            "for new classes."
        )
    with errors_name(model_dir):
        predictor = clip_predictor(trainer, checkpoint, device, classnames)
    return replace(predictor, calibration=no_temperature(OTHER_CLASSES))


def calibration_of(trainer: type, checkpoint: dict[str, Any], run: Path) -> Calibration:
    """What makes probabilities of the scores of a checkpoint's classifier.

    Where it has no temperature, the results of its run say why.
    """
    from dassl.evaluation.calibration import no_temperature, taken_calibration
    from trainers.common.testtime.trainer import StreamTrainer

    if issubclass(trainer, StreamTrainer):
        return no_temperature(
            f"{trainer.__name__} adapts to a stream of images, which single images are not"
        )
    if "calibration" not in checkpoint and (run / "results.json").is_file():
        with contextlib.suppress(OSError, ValueError):  # damaged: the checkpoint serves without
            said = read_json(run / "results.json").get("calibration") or {}
            if reason := said.get("reason"):
                return no_temperature(reason)
    return taken_calibration(checkpoint.get("calibration"))


def trained(model_dir: Path, epoch: int | None = None) -> tuple[Any, dict[str, Any]]:
    """The trainer class and the contents of a run's checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: other code wrote it.
    """
    from dassl.engine import TRAINER_REGISTRY
    from dassl.engine.state.checkpoints import content_of

    importlib.import_module("trainers")  # makes every trainer known

    path = checkpoint_of(model_dir, epoch)
    checkpoint = content_of(path)
    known = TRAINER_REGISTRY.registered_names()
    name = checkpoint.get("trainer")
    if name not in known:
        raise ValueError(
            f"{path} was written by {name or 'other code'}, which is not a trainer of this package."
            f"{f' {did_you_mean(str(name), known)}' if name else ''} predict.py needs a checkpoint "
            "of ours."
        )
    return TRAINER_REGISTRY.get(name), checkpoint


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
    from dassl.config.name_lists import read_names

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
        images = []  # pairs: a list may name an image twice
        for path in paths[first : first + batch_size]:
            try:
                images.append((path, upright(read_image(path))))
            except BadImageError as err:
                if not skip_bad_images:
                    raise
                text = f"Left out, not a readable image: {path} ({err.__cause__})"
                print(printable(text), file=sys.stderr)
        if images:
            read, pictures = zip(*images)
            yield from zip(read, predictor(predictor.pixels(pictures)).cpu())


def build(args: argparse.Namespace) -> Predictor:
    """The classifier that the command line names."""
    import torch

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    names = names_given(args) if args.classnames or args.backbone else []
    if args.model_dir:
        return tuned_predictor(args.model_dir, args.load_epoch, device, names)
    options = {"templates": args.template or (), "activation": args.activation}
    return zero_shot_predictor(args.backbone, names, device, **options)


def classify(args: argparse.Namespace) -> None:
    """Classify the images and print, stream and write what was found."""
    paths = find_images(args.images)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads, see train.py
    from tabulate import tabulate
    from tqdm import tqdm

    from dassl.evaluation.calibration import in_words

    predictor = build(args)
    show_anything()
    predictions = predict(predictor, paths, args.batch_size, skip_bad_images=args.skip_bad_images)
    rows: list[Row] = []
    bar = tqdm(total=len(paths), unit="image", disable=None, leave=False)  # on a terminal
    with bar, streaming(args.csv, args.json) as stream:
        for path, probabilities in predictions:
            top = probabilities.topk(min(args.topk, len(predictor.classnames)))
            found = ranked(
                path,
                top.values.tolist(),
                top.indices.tolist(),
                predictor.classnames,
                is_calibrated=predictor.is_calibrated,
                reject=args.reject,
            )
            rows += found
            stream(found)
            bar.update()
    if not rows:
        raise ValueError(f"None of the {len(paths)} images can be read.")
    if args.output:  # first: a console may fail
        write_rows(args.output, rows)
    if "-" not in (args.csv, args.json):
        table = [shown(row) for row in rows]
        print(printable(tabulate(table, headers="keys")))
    logger.info("%s", in_words(predictor.calibration))
    if args.reject is not None:
        count = sum(row["rejected"] for row in rows if row["rank"] == 1)
        least = f"{100 * args.reject:g} %"
        logger.info("%d rejected (?): the best class is less probable than %s.", count, least)
    if args.output:
        logger.info("Written to %s", args.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse_args(argv)
    try:
        classify(args)
    except KeyboardInterrupt as err:
        target = {"-": "stdout"}.get(stream := args.csv or args.json or "", stream)
        kept = f"all rows in {target} are whole" if target else "nothing was written"
        print(f"\nInterrupted; {kept}.", file=sys.stderr)
        return exit_status(err)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log_safely()
    as_script(main, ImportError, RuntimeError, FloatingPointError)

"""Checks before the first run: settings, data, weights, disk; all that is wrong is said at once."""

from __future__ import annotations

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import contextlib
import importlib
import io
import json
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.config.own_data import is_own
from dassl.engine.needed import NeededFile
from dassl.flags import FlagParser
from dassl.terminal import as_script
from tools.caches.entries import entries_in, prune
from tools.caches.kinds import KINDS
from tools.caches.sizes import parse_size, shown_size
from tools.protocols.disk import Disk, Images, estimate, toy_images
from tools.protocols.plan import command_line

SHOWN = 3  # mistakes in settings that are told; those of many runs are alike
OTHER_OPTIONS = " In a script: give these runs a name, --tag NAME, or take another OUTPUT."
STUDENTS = ("toy:", "timm:", "torchvision:")  # the trainer knows their files
ZEROSHOT_ONLY = "Zero-shot rows need it (--no-zeroshot leaves them out)."
CACHE_SIZE = "VLTUNE_CACHE_SIZE"
LESS_CACHE = " With STEPS.CACHE_GB 0 no resized images are kept (slower)."
DAMAGED = ", which is damaged (another SHA-256 than published)"
SPARE = 20_000_000  # bytes that are kept free


def main(argv: list[str] | None = None) -> int:
    """Print what is wrong; returns 1 if anything is, else 0."""
    parser = FlagParser(description=__doc__)
    parser.add_argument("--datasets", nargs="*", default=[], help="config names")
    parser.add_argument("--backbones", nargs="*", default=[], help="names of backbones")
    parser.add_argument("--zeroshot-backbones", nargs="*", default=[], help="of these rows alone")
    parser.add_argument("--root", default="./data", help="folder that holds all datasets")
    parser.add_argument("--output", default="output", help="where the runs will be written")
    for name in ("--runs", "--zeroshot-runs"):
        parser.add_argument(name, type=json.loads, default=[], help="JSON: arguments of each run")
    args = parser.parse_args(argv)

    settings = config_problems(args.runs)
    names = next((name for run in args.runs if (name := given(run, "--classnames"))), "")
    cache = cache_problems()
    images: dict[str, Images] = {}
    problems = [
        *settings,
        *cache,
        *data_problems(
            args.datasets, args.root, halved=halved(args.runs), classnames=names, images=images
        ),
    ]
    plan = Disk() if settings else planned([*args.runs, *args.zeroshot_runs], images)
    problems += disk_problems(args.output, plan)
    download = not problems
    problems += weights_problems(args.backbones, may_download=download)
    if not settings:
        problems += file_problems(args.runs, may_download=download)
    more = weights_problems(args.zeroshot_backbones, may_download=download)
    problems += [f"{text}\n  {ZEROSHOT_ONLY}" for text in more]
    if problems:
        print("\nCannot start:\n", file=sys.stderr)
        print("\n\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


def config_problems(runs: Iterable[Sequence[str]]) -> list[str]:
    """One text per mistake in the settings of the runs, given as arguments of train.py."""
    importlib.import_module("datasets")  # registers what it holds
    importlib.import_module("trainers")
    found = [f"Settings: {text}" for text in dict.fromkeys(map(config_problem, runs)) if text]
    more = [f"... and {len(found) - SHOWN} more of this kind."] if len(found) > SHOWN else []
    return [*found[:SHOWN], *more]


def config_problem(words: Sequence[str]) -> str:
    """What train.py would refuse in these arguments before it reads any data, or ""."""
    from dassl.engine.command.cli import make_config, make_parser
    from dassl.engine.command.run import check_output_dir, check_settings
    from tools import protocol

    parser = make_parser()
    parser.also_known = protocol.make_parser().flags
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), _silent():
            args = parser.parse_args(words)
            cfg = make_config(args)
            if (trainer := check_settings(cfg)) is not None:
                check_steps(cfg, trainer)
    except SystemExit:  # argparse has printed its usage and the reason
        return complaint.getvalue().split("error: ", 1)[-1].strip()
    except (ValueError, KeyError, OSError, ImportError) as err:
        return str(err.args[0] if isinstance(err, KeyError) and err.args else err)
    try:
        check_output_dir(cfg, Path(cfg.OUTPUT_DIR), is_evaluation=args.eval_only)
    except ValueError as err:
        return f"{err}{OTHER_OPTIONS}"
    return ""


def check_steps(cfg: CfgNode, trainer: type) -> None:
    """What a step-based trainer would refuse when training starts: too few steps to save any.

    Where the dataset counts its steps as it is read, the run itself will tell.
    """
    from dassl.data.datasets import DATASET_REGISTRY

    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    check = getattr(trainer, "check_training", None)
    known = (cfg.STEPS.N or hasattr(dataset, "steps")) if check else False
    if check and known and (cfg.STEPS.FREQ or hasattr(dataset, "steps_per_evaluation")):
        check(cfg, dataset)


def file_problems(runs: Iterable[Sequence[str]], *, may_download: bool) -> list[str]:
    """One text per file beside images and backbone that a run, given as arguments, cannot read.

    The runs' trainers say what they read (``needed_files``); what several need is tried once. What
    a run would download is tried only where nothing else is missing.
    """
    from dassl.engine import TRAINER_REGISTRY
    from dassl.engine.command.cli import make_config, make_parser

    needed: dict[str, NeededFile] = {}
    for words in runs:
        with _silent():
            cfg = make_config(make_parser().parse_args(words))
        ask = getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "needed_files", None)
        for file in ask(cfg) if ask else ():
            needed.setdefault(file.what, file)
    problems = []
    for what, file in needed.items():
        try:
            if may_download or not file.may_download:
                file.read()
        except (OSError, ValueError, RuntimeError, KeyError) as err:
            problems.append(f"{what}: {err.args[0] if isinstance(err, KeyError) else err}")
    return problems


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without warnings: the runs will give them."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def given(words: Sequence[str], name: str) -> str:
    """The value of a flag or key in a run's arguments, or ""."""
    return words[words.index(name) + 1] if name in words else ""


def halved(runs: Iterable[Sequence[str]]) -> set[str]:
    """The datasets of which a run takes the base or new classes."""
    key = "DATASET.SUBSAMPLE_CLASSES"
    return {given(run, "--dataset") for run in runs if given(run, key) in ("base", "new")}


def data_problems(
    datasets: Iterable[str],
    root: str,
    *,
    halved: Collection[str] = (),
    classnames: str = "",
    images: dict[str, Images] | None = None,
) -> list[str]:
    """One text per dataset that is not ready; the embedded toy sets always are.

    Args:
        datasets: as the command line names them.
        root: folder of those that are not one's own.
        halved: those that need enough classes for two halves.
        classnames: a file of class names for those that are one's own.
        images: is given what is known of each dataset that is ready.
    """
    names = [name for name in datasets if not name.startswith("toy_")]
    if not names:
        return []
    importlib.import_module("datasets")  # registers the readers
    from datasets.subsampling import FEWEST_CLASSES, too_few_classes
    from tools.check_data import check

    problems = []
    for name in names:
        report = check(name, Path(root).expanduser().absolute(), classnames=classnames)
        if name in halved and 0 < report.num_classes < FEWEST_CLASSES:
            report.add("missing", too_few_classes(report.num_classes))
        if report.is_ready:
            print(report.summary)
            if images is not None:
                images[name] = Images(report.num_classes, report.images)
            continue
        place = f"under {Path(root).expanduser().absolute()} (environment DATA)"
        lines = [f"Data of {name}:" if is_own(name) else f"Data of {name} {place}:"]
        lines += [f"  {mark:<8}{text}" for mark, text in report.lines]
        command = _check_command(name, root)
        lines.append(f"  How to get it: {report.way_to_get}. Check again: {command}")
        problems.append("\n".join(lines))
    return problems


def _check_command(name: str, root: str) -> str:
    where = [] if is_own(name) else ["--root", root]
    return command_line("python", "tools/check_data.py", name, *where)


def weights_problems(backbones: Iterable[str], *, may_download: bool) -> list[str]:
    """One text per backbone without whole weights; they are downloaded if nothing else is missing.

    Files that are there are checked against their SHA-256, as every run does.
    """
    from clip import clip
    from clip.download import sha256, weights_dir
    from dassl.modeling.networks import SHORT_NAMES

    names = [SHORT_NAMES.get(name, name) for name in backbones]
    names = [name for name in names if not name.startswith(STUDENTS)]

    problems = []
    for name in dict.fromkeys(name.removeprefix("clip:") for name in names):
        url = clip._MODELS.get(name, "")
        try:
            path = clip.weights_path(name)
            if may_download:
                clip.fetch_weights(name)
                continue
            if path is None:
                continue
            is_published = "://" in url and path.is_file()
            state = DAMAGED if is_published and sha256(path) not in url else ""
            if path.exists() and not state:
                continue
        except (RuntimeError, ValueError) as err:
            problems.append(f"Weights of {name}: {err}")
            continue
        problems.append(
            f"Weights of {name}:\n  Looked for: {path}{state}\n  How to get them: they are "
            f"downloaded from {url} at the first start with a network; or put the file into "
            f"{weights_dir()}. See DATASETS.md, section CLIP's weights."
        )
    return problems


def cache_problems() -> list[str]:
    """Remove what was used longest ago where the caches are larger than VLTUNE_CACHE_SIZE.

    Returns:
        A text if the variable holds no size.
    """
    from dassl.utils import cache_dir
    from tools.cache import Remover

    if not (text := os.environ.get(CACHE_SIZE)):
        return []
    try:
        most = parse_size(text)
    except ValueError as err:
        return [f"The environment variable {CACHE_SIZE} is {err}"]
    remover = Remover()
    left = prune(entries_in(cache_dir(), KINDS), remover, max_size=most, last_use=None)
    if remover.count:
        print(f"Caches: {remover.text}, {shown_size(left)} left ({CACHE_SIZE} {text}).")
    return []


def planned(runs: Sequence[Sequence[str]], images: dict[str, Images]) -> Disk:
    """The disk that runs, given as arguments, will take, as far as their datasets are known."""
    names = {given(run, "--dataset") for run in runs}
    images |= {name: toy_images(name) for name in names if name.startswith("toy_")}
    with _silent():
        return estimate(runs, images)


def disk_problems(output: str, plan: Disk | None = None) -> list[str]:
    """A text per folder that cannot be written, or where too little space is left for a plan.

    What the plan takes is printed where it fits.
    """
    from dassl.utils import cache_dir

    plan = plan or Disk()
    problems, needed, said = [], Counter[int](), []
    places = (("OUTPUT", Path(output), plan.output), ("VLTUNE_CACHE", cache_dir(), plan.cache))
    for what, path, sizes in places:
        folder = path.expanduser().absolute()
        while not folder.exists():
            folder = folder.parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            why = "is not writable" if folder.is_dir() else "is a file"
            problems.append(f"A folder to write to: {path} (environment {what}): {folder} {why}.")
            continue
        disk = folder.stat().st_dev
        needed[disk] += sizes.total()
        said.append(f"{shown_size(sizes.total())} in {path} ({_parts(sizes)})")
        free = shutil.disk_usage(folder).free
        if free < needed[disk] + SPARE:
            problems.append(
                f"Disk space: this plan takes up to {' and '.join(said)}, and {folder} has "
                f"{shown_size(free)} free. Free some, set {what} elsewhere, or start with less "
                f"(fewer seeds or datasets).{LESS_CACHE if what == 'VLTUNE_CACHE' else ''}"
            )
    if plan.runs and not problems:
        free_of_both = shown_size(shutil.disk_usage(folder).free)
        count = f"{plan.runs} run{'s' * (plan.runs > 1)}"
        print(f"Disk: {count} may take {', '.join(said)}; {free_of_both} free.")
    return problems


def _parts(sizes: Counter[str]) -> str:
    named = (f"{what} {shown_size(size)}" for what, size in sizes.most_common() if size)
    return ", ".join(named) or "nothing"


if __name__ == "__main__":
    as_script(main)

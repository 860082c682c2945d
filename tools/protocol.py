"""Run a whole protocol: every seed, every part, resumable; ends with the table.

python tools/protocol.py fewshot  --trainer TaskRes --dataset toy_objects --shots 16
python tools/protocol.py base2new --trainer CoOp --dataset dtd,eurosat OPTIM.MAX_EPOCH 50
python tools/protocol.py dg       --trainer TaskRes --dataset imagenet --root /data
python tools/protocol.py lodo     --trainer ERM --dataset pacs --recipe rn50

Protocols: fewshot, zeroshot, testtime, base2new, xd, dg, lodo. Finished runs are skipped, an
interrupted one resumes: give the same command again. Other arguments go to train.py.
Recipes are found by configs/trainers/<Trainer>/recipes.yaml (format: dassl/config/recipes.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace

from dassl.config.own_data import is_own, own_set, split_datasets
from dassl.flags import FlagParser, add_class_flags
from dassl.terminal import as_script, as_typed
from dassl.utils import interrupts
from tools.protocols import executors
from tools.protocols.closing import closing_text
from tools.protocols.execute import execute, is_known_as_finished, result_line
from tools.protocols.launcher import Launcher
from tools.protocols.plan import Request, Run, make_plan
from tools.protocols.sets import check_datasets

__all__ = ["execute", "main", "result_line"]
SINGLE = "train.py, for a single run"
INSTEAD = {  # what the protocol sets itself -> how to say it
    "--output-dir": "OUTPUT or --output",
    "OUTPUT_DIR": "OUTPUT or --output",
    "--seed": "SEEDS or --seeds",
    "SEED": "SEEDS or --seeds",
    "--target-domains": "--domains",
    "DATASET.TARGET_DOMAINS": "--domains",
    "DATASET.NUM_SHOTS": "--shots",
    "DATASET.ROOT": "DATA or --root",
    "MODEL.BACKBONE.NAME": "--backbone",
    "TRAINER.NAME": "--trainer",
    "DATASET.SUBSAMPLE_CLASSES": SINGLE,
    "--dataset-config-file": SINGLE,
    "--eval-only": SINGLE,
    "--model-dir": SINGLE,
    "--load-epoch": SINGLE,
    "--no-train": SINGLE,
    "--no-recipe": SINGLE,
    "--resume": "the same command again, which resumes what was interrupted",
}
DEFAULT_SHOTS = 16
WITH_SHOTS = ("fewshot", "base2new", "xd", "dg")
OF_PROTOCOLS = {  # option -> protocols in which it does something
    "shots": WITH_SHOTS,
    "targets": ("xd", "dg"),
    "domains": ("lodo",),
    "stage": ("lodo",),
    "base_trainer": ("fewshot", "xd", "dg"),
    "no_zeroshot": (*WITH_SHOTS, "testtime", "lodo"),
}


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Own options, and the rest for train.py."""
    return make_parser().parse_known_args(argv)


def make_parser() -> FlagParser:
    """Every flag that is not train.py's."""
    parser = FlagParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("protocol", help="fewshot, zeroshot, testtime, base2new, xd, dg or lodo")
    add("--trainer", required=True, help="registered name, e.g. TaskRes, or several: A,B")
    add(
        "--dataset",
        default="",
        help="config name, or folder:PATH[=NAME], csv:FILE[=NAME] of your own, or several: a,b,c "
        "(xd, dg: the source); default toy_objects, lodo: toy_domains",
    )
    add_class_flags(parser)
    add("--shots", type=int, help=f"images per class (default: {DEFAULT_SHOTS})")
    add("--seeds", default=os.environ.get("SEEDS", ""), help='e.g. "1 2 3" (environment SEEDS)')
    add("--root", default=os.environ.get("DATA", "./data"), help="data folder (environment DATA)")
    add(
        "--output",
        default=os.environ.get("OUTPUT", "./output"),
        help="folder of all runs (environment OUTPUT)",
    )
    add("--backbone", help="instead of the recipe's own, e.g. ViT-B/16")
    add("--recipe", help="instead of the one that recipes.yaml chooses")
    add("--variant", default="", help="setting of the method that recipes.yaml knows")
    add("--config-file", action="append", default=[], help="instead of any recipe; repeatable")
    add("--tag", default="", help="ends the recipe's name; for runs with other options")
    add("--targets", default="", help="xd, dg: datasets to test on")
    add("--domains", default="", help="lodo: the domains to leave out")
    add("--stage", default="", help="lodo: run a staged trainer up to this stage")
    add("--base-trainer", default="", help="fewshot, xd, dg: train the enhanced base with it first")
    add("--no-zeroshot", action="store_true", help="without the zero-shot rows")
    add(
        "--no-check",
        action="store_true",
        help="without the check of settings, data, weights and disk",
    )
    add("--verbose", action="store_true", help="show all that the runs print, as log.txt has it")
    add("--keep-going", action="store_true", help="go on after a run that failed")
    add("--dry-run", action="store_true", help="print the commands only")
    executors.add_options(add)
    return parser


def make_requests(args: argparse.Namespace, rest: Sequence[str]) -> list[Request]:
    """The requests behind a command line, one per trainer.

    Raises:
        ValueError: arguments that the protocol sets itself, seeds that are not numbers, unknown
            datasets, a data folder without a dataset that reads it.
    """
    for word in rest:
        if instead := _set_by_protocol(word):
            raise ValueError(f"{word}: the protocol sets this itself. Use {instead}.")
    check_options(args)
    shots = DEFAULT_SHOTS if args.shots is None else args.shots
    if shots < 1:
        raise ValueError(
            f"--shots is {shots}; expected at least 1. Training on all images: train.py."
        )
    if not args.dataset and args.root != Request.root:
        raise ValueError(
            f'The data folder is "{args.root}" (DATA or --root), but no dataset is named, and the '
            "toy sets do not read it. Name one, --dataset NAME (DATASETS.md lists them)."
        )
    try:
        seeds = tuple(int(word) for word in _words(args.seeds))
    except ValueError as err:
        raise ValueError(f'SEEDS is "{args.seeds}", expected numbers such as "1 2 3".') from err
    datasets = tuple(map(_in_full, split_datasets(args.dataset)))
    first = Request(
        protocol=args.protocol,
        trainer="",
        datasets=datasets or (default_dataset(args.protocol),),
        shots=shots,
        seeds=seeds,
        root=args.root,
        output=Path(args.output),
        backbone=args.backbone,
        recipe=args.recipe,
        variant=args.variant,
        config_files=tuple(args.config_file),
        tag=args.tag,
        targets=tuple(map(_in_full, split_datasets(args.targets))),
        domains=tuple(re.split(r"\s*,\s*", args.domains)) if args.domains else (),
        stage=args.stage,
        base_trainer=args.base_trainer,
        with_zeroshot=not args.no_zeroshot,
        classnames=args.classnames,
        templates=tuple(args.template),
        rest=tuple(rest),
    )
    check_datasets((*first.datasets, *first.targets))
    if first.classnames and not any(map(is_own, (*first.datasets, *first.targets))):
        raise ValueError(
            f"--classnames {first.classnames} has no effect: it is for sets of your own, --dataset "
            "folder:PATH or csv:FILE. Leave it out."
        )
    return [replace(first, trainer=trainer) for trainer in _words(args.trainer)]


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that do nothing.

    Raises:
        ValueError: naming the option, and where it does something.
    """
    for name, protocols in OF_PROTOCOLS.items():
        is_given = getattr(args, name) not in (None, "", False)
        if is_given and args.protocol not in protocols:
            raise ValueError(
                f"--{name.replace('_', '-')} has no effect with the protocol {args.protocol}, only "
                f"with {', '.join(protocols)}. Leave it out."
            )
    if args.recipe and args.config_file:
        raise ValueError(
            f"--recipe {args.recipe} has no effect beside --config-file, which stands in place of "
            "any recipe. Leave one of them out."
        )


def _in_full(dataset: str) -> str:
    """A set of one's own with its whole path and its name, so that it means the same elsewhere."""
    return own_set(dataset).spec if is_own(dataset) else dataset


def default_dataset(protocol: str) -> str:
    """The embedded set that a protocol runs on where none is named."""
    return "toy_domains" if protocol == "lodo" else "toy_objects"


def _set_by_protocol(word: str) -> str:
    """What to use in place of a word (also `--seed=5`, or shortened `--see`) that is not free."""
    name = word.split("=", 1)[0]
    is_flag = name.startswith("--") and len(name) > len("--")
    fits = (known for known in INSTEAD if known == name or (is_flag and known.startswith(name)))
    return next((INSTEAD[known] for known in fits), "")


def plan_all(requests: Sequence[Request]) -> list[Run]:
    """The runs of all requests; a run that several share (zero-shot) appears once."""
    runs: dict[Path, Run] = {}
    for request in requests:
        for run in make_plan(request):
            runs.setdefault(run.output_dir, run)
    return list(runs.values())


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text) if word]


def check(request: Request, runs: Sequence[Run], launcher: Launcher) -> int:
    """Look at settings, data, weights and disk before the first run; returns an exit status.

    Not at the settings of zero-shot rows: those may fail without ending the protocol.
    """
    if all(map(is_known_as_finished, runs)):
        return 0
    todo = [run for run in runs if not run.results()]
    datasets = sorted({run.dataset for run in todo if not run.dataset.startswith("toy_")})
    named = [run for run in todo if "MODEL.BACKBONE.WEIGHTS" not in run.opts]
    own = sorted({run.backbone for run in named if run.backbone and not run.tolerant})
    others = sorted({run.backbone for run in named if run.backbone} - set(own))
    words = ["--root", request.root, "--output", str(request.output)]
    words += ["--datasets", *datasets, "--backbones", *own, "--zeroshot-backbones", *others]
    for flag, is_tolerant in (("--runs", False), ("--zeroshot-runs", True)):
        some = [run for run in runs if run.tolerant == is_tolerant]
        words += [flag, json.dumps([run.arguments(linked=run.is_linked) for run in some])]
    return launcher.call("tools/protocols/preflight.py", words)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args, rest = parse_args(argv)
    try:
        executors.check_options(args)
        requests = make_requests(args, rest)
        runs = plan_all(requests)
    except (ValueError, FileNotFoundError) as err:
        from dassl.utils.places import explain  # loads torch

        print(as_typed(f"Error: {explain(err)}"), file=sys.stderr)
        return 1
    if args.dry_run:
        print("\n".join(run.command() for run in runs))
        return 0
    try:
        with interrupts.watching():
            launcher = Launcher(brief=not args.verbose, slots=args.workers)
            if not args.no_check and (status := check(requests[0], runs, launcher)):
                return status
            executor = executors.make_executor(args, launcher)
            failed = execute(runs, executor, keep_going=args.keep_going)
    except KeyboardInterrupt as err:
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        return interrupts.exit_status(err)
    if text := closing_text(requests, [run for run in runs if run not in failed]):
        print(f"\n{text}")
    if not any(not run.tolerant for run in failed):
        return 0
    missing = sum(not run.results() for run in runs)
    print(f"\n{missing} of {len(runs)} runs are not finished.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    as_script(main)

r"""Compare methods: two that have run, pair by pair, or many, running what is missing.

python tools/compare.py output/fewshot/dtd/TipAdapterF output/fewshot/dtd/TaskRes
python tools/compare.py --trainers ZeroshotCLIP,TipAdapterF,TaskRes --datasets toy_objects \
    --shots 1,4,16 --seeds 1,2,3

Two folders: differences over the same datasets, shots, seeds and training images, with a bootstrap
interval. Trainers: runs are planned as by tools/protocol.py, finished ones are skipped, and the
same command resumes an interrupted comparison. Tables and figures go to <output>/comparison: one
table, few-shot curves, cost against accuracy, calibration against accuracy, and base against novel
with --protocols fewshot,base2new. Other options: those of tools/protocol.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
from collections.abc import Sequence

import tools.protocol as tools_protocol
from dassl.config.own_data import split_datasets
from dassl.flags import FlagParser
from dassl.terminal import as_script, as_typed
from dassl.utils import interrupts, write_text
from tools.plot_curves import caption_of, draw, read_curves
from tools.protocols import executors
from tools.protocols.launcher import Launcher
from tools.protocols.plan import KEY, Request, Run
from tools.protocols.sets import CLASS_BOUND
from tools.results import scatter
from tools.results.comparison import many_table, pair_table
from tools.results.records import Record, load_records
from tools.results.report import as_csv, as_latex, as_markdown, as_text
from tools.results.scatter import ZERO_SHOT
from tools.results.tables import Table

FORMATS = {"csv": as_csv, "markdown": as_markdown, "latex": as_latex}
SUFFIXES = {"csv": "csv", "markdown": "md", "latex": "tex"}
PROTOCOLS = ("fewshot", "base2new")
LISTS = {"datasets": "toy_objects", "shots": "16", "seeds": "", "protocols": "fewshot"}


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Own options, and the rest for the protocol.

    Raises:
        ValueError: folders and trainers at once, or neither.
    """
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    argv = sys.argv[1:] if argv is None else list(argv)
    parser.set_defaults(folders=[])
    if not any(word.startswith("--trainers") for word in argv):  # else: KEY VALUE of the runs
        add("folders", nargs="*", type=Path, metavar="A B", help="two folders with runs")
    add("--trainers", default="", help="registered names, separated by commas")
    for name, default in LISTS.items():
        add(f"--{name}", default="", help=f"separated by commas (default: {default or 'recipe'})")
    add("--output", type=Path, default=Path("output"), help="folder of all runs")
    executors.add_options(add)
    add("--figures", default="png", choices=("png", "pdf", "svg"), help="format (default png)")
    add("--dry-run", action="store_true", help="print the commands of the runs only")
    add("--no-check", action="store_true", help="without the check before the first run")
    for name in FORMATS:
        add(f"--{name}", nargs="?", const="-", metavar="FILE", help=f"write {name} (default: -)")
    args, rest = parser.parse_known_args(argv)
    if args.trainers and rest and not (rest[0].startswith("-") or KEY.match(rest[0])):
        raise ValueError("Give two folders, or --trainers A,B: not both.")
    if not args.trainers and len(args.folders) != 2:
        raise ValueError(
            f"{len(args.folders)} folders are given; expected two with the runs of a method each, "
            "or --trainers A,B."
        )
    given = [f"--{name}" for name in LISTS if getattr(args, name)] + rest
    if args.folders and given:
        raise ValueError(f"{', '.join(given)} has no effect on runs that are there. Leave it out.")
    return args, rest


def words_of(text: str) -> list[str]:
    """The words of a list, separated by commas or blanks."""
    return text.replace(",", " ").split()


def make_requests(args: argparse.Namespace, rest: Sequence[str]) -> list[Request]:
    """The requests of tools/protocol.py: one per protocol, number of shots and trainer.

    Raises:
        ValueError: a protocol that is not compared, or what tools/protocol.py refuses.
    """
    requests = []
    trainers = [name for name in words_of(args.trainers) if name != ZERO_SHOT]
    protocols = words_of(args.protocols) or ["fewshot"]
    if unknown := set(protocols) - set(PROTOCOLS):
        raise ValueError(
            f"--protocols {', '.join(sorted(unknown))}; expected {' or '.join(PROTOCOLS)}, or both."
        )
    bound = [name for name in trainers if name in CLASS_BOUND]
    if bound and "base2new" in protocols:
        print(
            f"{', '.join(bound)}: not in base2new, which tests on new classes; what is learned "
            "there belongs to the classes of the training.",
            file=sys.stderr,
        )
    for protocol in protocols:
        some = [t for t in trainers if protocol == "fewshot" or t not in bound]
        for shots in words_of(args.shots or LISTS["shots"]):
            if some:
                requests += _requests(protocol, some, args, ["--shots", shots, *rest])
    if ZERO_SHOT in words_of(args.trainers) and not trainers:
        requests += _requests("zeroshot", [ZERO_SHOT], args, rest)
    return requests


def _requests(
    protocol: str, trainers: Sequence[str], args: argparse.Namespace, more: Sequence[str]
) -> list[Request]:
    words = [protocol, "--trainer", ",".join(trainers), "--output", str(args.output)]
    words += ["--dataset", ",".join(split_datasets(args.datasets or LISTS["datasets"]))]
    words += ["--seeds", " ".join(words_of(args.seeds))] if args.seeds else []
    words += [] if ZERO_SHOT in words_of(args.trainers) else ["--no-zeroshot"]
    own, rest = tools_protocol.parse_args([*words, *more])
    return tools_protocol.make_requests(own, rest)


def execute(args: argparse.Namespace, requests: Sequence[Request], runs: Sequence[Run]) -> int:
    """Run what is missing; returns how many runs did not finish."""
    launcher = Launcher(brief=True, slots=args.workers)
    todo = [run for run in runs if not run.results()]
    is_checked = todo and not args.no_check
    if is_checked and (status := tools_protocol.check(requests[0], todo, launcher)):
        raise ValueError(f"The check before the first run failed (exit status {status}).")
    executor = executors.make_executor(args, launcher)
    return len(tools_protocol.execute(todo, executor, keep_going=True))


def write_comparison(records: Sequence[Record], folder: Path, kind: str) -> list[Table]:
    """Write tables and figures to the folder; returns the tables."""
    few_shot = [record for record in records if record.part not in ("base", "new")]
    trained = few_shot or [record for record in records if record.part == "base"]
    tables = [many_table(records), cost_table(trained)]
    for name, render in FORMATS.items():
        path = folder / f"table.{SUFFIXES[name]}"
        write_text(path, render(tables) + "\n")
    caption = caption_of(records, "accuracy")
    if few_shot:
        path = folder / f"curves.{kind}"
        draw(read_curves(few_shot, "accuracy"), path, "accuracy", caption=caption)
    halves = scatter.halves_points(records)
    panels = {
        "base2new": [("base accuracy (%)", halves)] if halves else [],
        "cost": scatter.cost_points(trained),
        "calibration": scatter.calibration_points(trained),
    }
    for name, some in panels.items():
        if some:
            label = "novel accuracy (%)" if name == "base2new" else "accuracy (%)"
            words = f"One point per dataset and shots.\n{caption.split('; bars')[0]}."
            scatter.draw_points(some, folder / f"{name}.{kind}", y_label=label,
                                log=name == "cost", caption=words)  # fmt: skip
    return tables


def _cost(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if name in ("accuracy", "training seconds") else f"{value:,.0f}"
    return "" if value is None else str(value)


def cost_table(records: Sequence[Record]) -> Table:
    """Accuracy and costs of each method, means over its runs."""
    rows = scatter.cost_rows(records)
    lines = [{name: _cost(name, value) for name, value in row.items()} for row in rows]
    notes = [
        "Peak memory in MiB: of the GPU where one was used, else of the process. Images per second "
        "of the test: a run that finds the features of another stored encodes no image."
    ]
    return Table.of_lines("Cost (means over runs)", lines, rows, keep=tuple(rows[0]), notes=notes)


def compare_folders(folders: Sequence[Path]) -> list[Table]:
    """The table of two folders."""
    first, second = (load_records([folder]).records for folder in folders)
    names = tuple(_name(records, folder) for records, folder in zip((first, second), folders))
    if names[0] == names[1]:
        names = tuple(folder.as_posix() for folder in folders)
    return [pair_table(first, second, (names[0], names[1]))]


def _name(records: Sequence[Record], folder: Path) -> str:
    trainers = {record.trainer for record in records}
    return trainers.pop() if len(trainers) == 1 else folder.as_posix()


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Compare; returns the exit status."""
    unfinished = 0
    if args.folders:
        tables = compare_folders(args.folders)
    else:
        executors.check_options(args)
        requests = make_requests(args, rest)
        runs = tools_protocol.plan_all(requests)
        if args.dry_run:
            print("\n".join(one.command() for one in runs))
            return 0
        unfinished = execute(args, requests, runs)
        records = load_records([one.output_dir for one in runs if one.results()]).records
        folder = args.output / "comparison"
        tables = write_comparison(records, folder, args.figures)
    targets = {name: getattr(args, name) for name in FORMATS if getattr(args, name)}
    if "-" not in targets.values():
        print(as_text(tables))
    for name, target in targets.items():
        if target == "-":
            print(FORMATS[name](tables))
        else:
            write_text(target, FORMATS[name](tables) + "\n")
    if not args.folders:
        print(f"\nTables and figures: {folder}", file=sys.stderr)
    if unfinished:
        print(f"{unfinished} of {len(runs)} runs are not finished.", file=sys.stderr)
    return 1 if unfinished else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        with interrupts.watching():
            return run(*parse_args(argv))
    except KeyboardInterrupt as err:
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        return interrupts.exit_status(err)
    except (OSError, ValueError) as err:
        from dassl.utils.places import explain  # loads torch

        print(as_typed(f"Error: {explain(err)}"), file=sys.stderr)
        return 1


if __name__ == "__main__":
    as_script(main)

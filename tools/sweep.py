r"""Choose hyperparameters on validation images: every setting of a grid, seeds, a table, the best.

python tools/sweep.py --trainer MMA --grid OPTIM.LR=0.005,0.01,0.02 --seeds "1 2 3"
python tools/sweep.py --trainer CoOp --dataset dtd --classes base \
    --grid OPTIM.LR=0.002,0.02 --grid OPTIM.MAX_EPOCH=50,100
python tools/sweep.py --protocol lodo --trainer ERM --dataset pacs --recipe rn50 \
    --grid OPTIM.LR=1e-5,5e-5

Few-shot runs are scored on the validation split (TEST.SPLIT val), with --classes base on that of
the base classes alone, and never see a test image. Lodo runs are scored on the held-out images of
the source domains (with SWAD's weights where it is on), whatever they record of the target.
Finished runs are skipped: give the same command again after an interruption, or with a larger grid.
Other options: those of tools/protocol.py (-h there); what neither knows goes to train.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

import tools.protocol as tools_protocol
from dassl.flags import FlagParser
from dassl.terminal import as_script, as_typed
from dassl.utils import interrupts
from tools.protocols import executors
from tools.protocols.execute import execute
from tools.protocols.launcher import Launcher
from tools.protocols.plan import KEY, Request, Run, make_plan
from tools.results.records import load_records
from tools.results.series import group
from tools.results.statistics import spread_in_words

PROTOCOLS = ("fewshot", "lodo")
CLASSES = ("all", "base")
TAKEN = ("TEST.SPLIT", "TEST.NO_TEST", "RUN.PROTOCOL")
SEPARATOR = re.compile(r",(?![^\[(]*[\])])")  # a comma outside brackets


@dataclass
class Setting:
    """One point of the grid, and its runs."""

    values: dict[str, str]
    runs: list[Run]

    def scores(self) -> list[float]:
        """Validation accuracies (percent), one per seed; those of unfinished runs are left out."""
        by_seed: dict[int, list[float]] = {}
        for run in self.runs:
            if results := run.results():
                by_seed.setdefault(results["seed"], []).append(validation_accuracy(results))
        return [statistics.mean(by_seed[seed]) for seed in sorted(by_seed)]

    @property
    def is_complete(self) -> bool:
        return all(run.results() for run in self.runs) and not self.mixed

    @property
    def mixed(self) -> str:
        """The settings in which its finished runs differ, or "": such runs are not seeds of one."""
        folders = [run.output_dir for run in self.runs if run.results()]
        series = group(load_records(folders).records, all_splits=True) if folders else []
        return "; ".join(dict.fromkeys(item.key.settings for item in series if item.key.settings))

    @property
    def options(self) -> str:
        """The setting as arguments for train.py."""
        return " ".join(f"{key} {value}" for key, value in self.values.items())


def validation_accuracy(results: dict) -> float:
    """The accuracy (percent) by which a run may be chosen, from its results.json.

    Raises:
        ValueError: the run recorded none.
    """
    metrics = results["metrics"]
    if "val" in metrics:
        return metrics["val"]["accuracy"]
    if "SWAD (inD)" in metrics:
        return metrics["SWAD (inD)"]["accuracy"]
    if "training-domain validation" in metrics:
        return metrics["training-domain validation"]["train_out"]
    raise ValueError(
        f"A run of {results.get('trainer')} recorded no validation accuracy, only "
        f"{', '.join(metrics) or 'nothing'}: its hyperparameters cannot be chosen without test "
        f"labels."
    )


def parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """KEY=V1,V2 texts -> {key: values}, in the order given.

    Raises:
        ValueError: a text of another form, or a key given twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not KEY.match(key) or not equals or not values:
            raise ValueError(
                f'--grid "{text}" is not of the form KEY=VALUE,VALUE (e.g. OPTIM.LR=0.01,0.02).'
            )
        if key in grid:
            raise ValueError(f"--grid {key} is given twice; give all its values at once.")
        grid[key] = [value.strip() for value in SEPARATOR.split(values)]
    return grid


def setting_name(values: dict[str, str]) -> str:
    """{"OPTIM.LR": "0.01"} -> "lr0.01", the end of the run's folder name."""
    words = (f"{key.rsplit('.', 1)[-1].lower()}{value}" for key, value in values.items())
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "_".join(words)).strip("_")


def plan_sweep(request: Request, grid: dict[str, list[str]], classes: str) -> list[Setting]:
    """The runs of every setting, in the order of the grid."""
    fixed = ["RUN.PROTOCOL", "sweep"] if request.protocol == "fewshot" else []
    if request.protocol == "fewshot":
        fixed += ["TEST.SPLIT", "val", "DATASET.SUBSAMPLE_CLASSES", classes]
    settings = []
    for point in itertools.product(*grid.values()):
        values = dict(zip(grid, point))
        pairs = [word for pair in values.items() for word in pair]
        subset = "" if classes == "all" else classes
        name = "_".join(filter(None, [request.tag, subset, setting_name(values)]))
        own = Request(**{**vars(request), "tag": name, "rest": (*request.rest, *fixed, *pairs)})
        settings.append(Setting(values, make_plan(own)))
    return settings


def table(settings: Sequence[Setting]) -> str:
    """One row per setting, the best complete one marked; below it the options to use."""
    best = best_setting(settings)
    rows = []
    for setting in settings:
        scores = setting.scores()
        mean = f"{statistics.mean(scores):.2f}" if scores else "failed"
        mean += f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
        mark = "best" if setting is best else "" if setting.is_complete else "incomplete"
        mark = f"settings differ: {setting.mixed}" if setting.mixed else mark
        rows.append([*setting.values.values(), mean, len(scores), mark])
    words = spread_in_words([len(setting.scores()) for setting in settings])
    title = f"validation accuracy ({words})" if words else "validation accuracy"
    head = [*settings[0].values, title, "seeds", ""]
    text = tabulate(rows, head, disable_numparse=True)
    if best is None:
        return f"{text}\n\nNo setting is complete."
    return f"{text}\n\nBest (the first of equals): {best.options}"


def best_setting(settings: Sequence[Setting]) -> Setting | None:
    """The highest mean over seeds among complete settings, the first of equals."""
    complete = [setting for setting in settings if setting.is_complete]
    return max(complete, key=lambda setting: statistics.mean(setting.scores()), default=None)


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Own options, and the rest for the protocol."""
    parser = FlagParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--grid", action="append", default=[], required=True, help="KEY=V1,V2; repeatable")
    add("--protocol", default="fewshot", choices=PROTOCOLS)
    add("--classes", default="all", choices=CLASSES, help="few-shot: which classes")
    add("--dry-run", action="store_true", help="print the commands only")
    return parser.parse_known_args(argv)


def make_request(protocol: str, words: Sequence[str], classes: str = CLASSES[0]) -> Request:
    """The request that all settings share, from the words that tools/protocol.py reads.

    Raises:
        ValueError: several trainers, what the sweep or the protocol sets itself, or classes that
            the protocol does not choose.
    """
    if protocol != "fewshot" and classes != CLASSES[0]:
        raise ValueError(f"--classes {classes} has no effect with --protocol {protocol}.")
    taken = [word for word in words if word in TAKEN]
    if taken:
        raise ValueError(f"{', '.join(taken)}: the sweep sets this itself.")
    args, rest = tools_protocol.parse_args([protocol, "--no-zeroshot", *words])
    args.output = Path(args.output) / "sweep"
    requests = tools_protocol.make_requests(args, rest)
    if len(requests) != 1 or len(requests[0].datasets) != 1:
        raise ValueError("A sweep is about one trainer on one dataset; give one of each.")
    return requests[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args, words = parse_args(argv)
    try:
        options = tools_protocol.parse_args([args.protocol, "--no-zeroshot", *words])[0]
        executors.check_options(options)
        request = make_request(args.protocol, words, args.classes)
        grid = parse_grid(args.grid)
        make_request(args.protocol, [*words, *grid])  # keys of the grid that are not free
        settings = plan_sweep(request, grid, args.classes)
    except (ValueError, FileNotFoundError) as err:
        from dassl.utils.places import explain  # loads torch

        print(as_typed(f"Error: {explain(err)}"), file=sys.stderr)
        return 1
    runs = [run for setting in settings for run in setting.runs]
    if args.dry_run:
        print("\n".join(run.command() for run in runs))
        return 0
    try:
        with interrupts.watching():
            launcher = Launcher(brief="--verbose" not in words, slots=options.workers)
            if not options.no_check and (status := tools_protocol.check(request, runs, launcher)):
                return status
            executor = executors.make_executor(options, launcher)
            failed = execute(runs, executor, keep_going=True)
    except KeyboardInterrupt as err:
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        return interrupts.exit_status(err)
    print(f"\n{table(settings)}")
    rule = "source_val" if request.protocol == "lodo" else "val"
    print(f"Chosen by: {rule}; no test label was used.")
    return 1 if failed else 0


if __name__ == "__main__":
    as_script(main)

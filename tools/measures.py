"""Measures beside accuracy, from the predictions that runs keep: no GPU, no images.

python tools/measures.py output/fewshot/toy_objects/TaskRes
python tools/measures.py output/fewshot/toy_objects/TaskRes/toy_4shots/seed1 --output measures
python tools/measures.py RUN --against RUN_ON_ANOTHER_DATASET

Calibration (ECE over 15 bins, Brier score, NLL) before and after division by the temperature that
the run fitted on its validation images, macro-F1, and a bootstrap interval over test images. With
--output: confusion matrix, accuracy per class, most confident mistakes, reliability diagram.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import csv
from collections.abc import Iterable, Sequence

import numpy as np
from tabulate import tabulate

from dassl.evaluation.predictions import PREDICTIONS_FILE, SPLITS, Predictions, read_predictions
from dassl.flags import FlagParser
from dassl.terminal import answered, as_script
from dassl.utils import atomic_write, write_json
from dassl.utils.text import cell
from tools.results import measures as measured
from tools.results.figures import legend_below

NAMES_SHOWN = 60  # classes whose names a confusion matrix has room for
WRITTEN_IN = 12  # classes whose percentages it has room for


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Run folders with predictions under these folders, sorted.

    Raises:
        FileNotFoundError: there is none.
    """
    folders = list(folders)
    found = {path.parent for folder in folders for path in folder.rglob(PREDICTIONS_FILE)}
    stages = {path for path in found if path.parent in found}  # of a run that shows the last one
    if not found:
        where = ", ".join(map(str, folders))
        raise FileNotFoundError(
            f"No {PREDICTIONS_FILE} under {where}. Every run writes one; earlier "
            "versions did not: run again in a new folder."
        )
    return sorted(found - stages)


def rows_of(runs: Sequence[Path], split: str, outside: Predictions | None) -> list[dict]:
    """One row of measures per run."""
    rows = []
    for run in runs:
        kept = read_predictions(run)
        row = {"run": run.as_posix(), **measured.measures(kept, split)}
        low, high = measured.bootstrap_interval(kept.splits[split])
        row |= {"accuracy_low": low, "accuracy_high": high, "images": len(kept.splits[split])}
        if outside is not None:
            row |= measured.against(kept.splits[split], outside.splits["test"])
        rows.append(row)
    return rows


def as_text(rows: Sequence[dict]) -> str:
    """The rows for a terminal."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if name not in ("accuracy_low", "accuracy_high")]
    shown = [[_shown(row, name) for name in names] for row in rows]
    note = (
        "accuracy, macro_f1, ece, auroc, fpr95 in percent, nll in nats; brackets: 95 % bootstrap "
        "interval over test images;\n..._calibrated: after division by the temperature that was "
        "fitted on validation images (-: there were none)."
    )
    return f"{tabulate(shown, names, disable_numparse=True)}\n\n{note}"


def _shown(row: dict, name: str) -> str:
    value = row.get(name, "-")
    if name == "accuracy":
        return f"{value:.2f} [{row['accuracy_low']:.2f}, {row['accuracy_high']:.2f}]"
    digits = 3 if name.startswith(("nll", "brier", "temperature")) else 2
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def write_files(kept: Predictions, split: str, folder: Path, *, mistakes: int) -> list[Path]:
    """Write what needs more than a row; returns the paths."""
    counts, names = measured.confusion(kept.splits[split]), kept.classnames
    rows = ([name, *row] for name, row in zip(names, counts.tolist()))
    write_csv(folder / "confusion.csv", ["truth", *names], rows)
    for name, lines in (
        ("per_class", measured.per_class(kept, split)),
        ("mistakes", measured.confident_mistakes(kept, split, mistakes)),
    ):
        header = list(lines[0]) if lines else ["none"]
        write_csv(folder / f"{name}.csv", header, (line.values() for line in lines))
    write_json(measured.measures(kept, split), folder / "measures.json")
    draw_confusion(counts, names, folder / "confusion.png")
    draw_reliability(kept, split, folder / "reliability.png")
    return sorted(path for path in folder.iterdir() if path.is_file())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable]) -> None:
    """A CSV file, atomically; text that a spreadsheet would compute is quoted."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(cell, header))
        writer.writerows(map(cell, row) for row in rows)


def draw_confusion(counts: np.ndarray, names: Sequence[str], path: Path) -> None:
    """The matrix in percent of each true class; few classes are named, many numbered."""
    from matplotlib.figure import Figure

    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = min(max(4.0, 0.22 * len(names) + 2), 16)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares if len(names) <= WRITTEN_IN else []):
        ink = "black" if share > 50 else "white"
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=7)
    if len(names) <= NAMES_SHOWN:
        labels = [name.replace("$", r"\$") for name in names]  # no formula
        axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), labels, fontsize=7)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, label="% of the true class's images", shrink=0.8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)


def draw_reliability(kept: Predictions, split: str, path: Path) -> None:
    """Accuracy over confidence in percent, before and after the temperature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=0.8, linestyle="--")
    kinds = [("without temperature", 1.0, "#0072B2", "o")]
    if kept.temperature is not None:
        kinds.append((f"temperature {kept.temperature:.2f}", kept.temperature, "#D55E00", "s"))
    for label, temperature, colour, marker in kinds:
        bins = measured.reliability(kept.splits[split], temperature)
        error = measured.expected_calibration_error(bins)
        places, heights = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
        axes.plot(places, heights, color=colour, marker=marker, markersize=4, linewidth=1.2,
                  clip_on=False, label=f"{label}: ECE {error:.1f} %")  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    axes.set(xlabel="mean confidence (%)", ylabel="accuracy (%)")
    legend_below(figure, *axes.get_legend_handles_labels(), size=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold runs")
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument(
        "--against", type=Path, metavar="RUN", help="a run on other images: AUROC and FPR95"
    )
    parser.add_argument("--output", type=Path, help="folder for tables and figures of each run")
    parser.add_argument("--mistakes", type=int, default=20, help="how many to list (default 20)")
    args = parser.parse_args(argv)
    return answered(lambda: print_measures(args))


def print_measures(args: argparse.Namespace) -> None:
    """The table, and the files of each run where they are asked for."""
    runs = find_runs(args.runs)
    outside = None if args.against is None else read_predictions(args.against)
    print(as_text(rows_of(runs, args.split, outside)))
    for run in runs if args.output else ():
        folder = args.output if len(runs) == 1 else args.output / run.as_posix().strip("/.")
        files = write_files(read_predictions(run), args.split, folder, mistakes=args.mistakes)
        print(f"\nWritten to {folder}: {', '.join(path.name for path in files)}")


if __name__ == "__main__":
    as_script(main)

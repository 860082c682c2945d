"""Figures of a comparison: base against novel, cost against accuracy, calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dassl.evaluation.predictions import read_predictions
from tools.results.figures import legend_below, paper_name, plain, save_figure, styles
from tools.results.measures import measures
from tools.results.records import Record
from tools.results.statistics import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ZERO_SHOT = "ZeroshotCLIP"
COSTS = {  # name -> axis label, and the value of a run
    "training seconds": ("training time (s)", lambda data: data["seconds"]["train"]),
    "trainable parameters": ("trainable parameters", lambda data: data["trainable_parameters"]),
    "peak memory": ("peak memory (MiB)", lambda data: data["peak_memory_bytes"] / 2**20),
    "images per second": ("test images per second", lambda data: images_per_second(data)),
}
Points = dict[str, list[tuple[float, float]]]  # trainer -> (x, y), one per dataset and shots


def images_per_second(data: dict) -> float:
    """Tested images over the seconds of the test, reading and encoding included."""
    return sum(data["tested_images"].values()) / data["seconds"]["test"]


def cost_rows(records: Iterable[Record]) -> list[dict]:
    """A row per method: accuracy and costs, means over all its runs."""
    by_trainer: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_trainer[record.trainer].append(record)
    rows = []
    for trainer, runs in by_trainer.items():
        row: dict = {"method": paper_name(trainer), "runs": len(runs)}
        accuracies = [r.metrics["test"]["accuracy"] for r in runs if "test" in r.metrics]
        row["accuracy"] = mean(accuracies) if accuracies else None
        for name, (_, value_of) in COSTS.items():
            values = [value for run in runs if (value := _value(run, value_of)) is not None]
            row[name] = mean(values) if values else None
        rows.append(row)
    return rows


def _value(record: Record, value_of: Callable[[dict], float]) -> float | None:
    try:
        return float(value_of(record.details))
    except (KeyError, TypeError, ZeroDivisionError):  # a run of an earlier version
        return None


def cost_points(records: Iterable[Record]) -> list[tuple[str, Points]]:
    """(axis label, points) of each cost against the accuracy."""
    records = [record for record in records if "accuracy" in record.metrics.get("test", {})]
    panels = []
    for label, value_of in COSTS.values():
        found = [(record, _value(record, value_of)) for record in records]
        panels.append((label, _means([(run, value) for run, value in found if value])))
    return [(label, points) for label, points in panels if points]


def _means(values: Iterable[tuple[Record, float]]) -> Points:
    """Means over seeds of (value, accuracy), by trainer."""
    by_place: dict[tuple, list[tuple[float, float]]] = defaultdict(list)
    for record, value in values:
        key = record.trainer, record.dataset, record.shots, record.part, record.target
        by_place[key].append((value, record.metrics["test"]["accuracy"]))
    points: Points = defaultdict(list)
    for (trainer, *_), pairs in by_place.items():
        points[trainer].append((mean([x for x, _ in pairs]), mean([y for _, y in pairs])))
    return dict(points)


def halves_points(records: Iterable[Record]) -> Points:
    """(base, novel) accuracy of each method, dataset and number of shots that has both."""
    halves: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.part in ("base", "new") and "accuracy" in record.metrics.get("test", {}):
            place = halves[record.trainer, record.dataset, record.shots]
            place[record.part].append(record.metrics["test"]["accuracy"])
    points: Points = defaultdict(list)
    for (trainer, *_), parts in halves.items():
        if {"base", "new"} <= set(parts):
            points[trainer].append((mean(parts["base"]), mean(parts["new"])))
    return dict(points)


def calibration_points(records: Iterable[Record]) -> list[tuple[str, Points]]:
    """ECE against accuracy, and after the temperature, of runs that kept predictions."""
    kinds = {"ece": "ECE (%)", "ece_calibrated": "ECE after temperature (%)"}
    found: dict[str, list[tuple[Record, float]]] = {kind: [] for kind in kinds}
    for record in records:
        try:
            numbers = measures(read_predictions(record.path))
        except (FileNotFoundError, ValueError):
            continue
        for kind in kinds:
            if kind in numbers:
                found[kind].append((record, numbers[kind]))
    return [(label, _means(found[kind])) for kind, label in kinds.items() if found[kind]]


def log_scale(axis: Axes, span: float) -> None:
    """A logarithmic x axis whose numbers are plain and have room.

    Args:
        axis: of a panel.
        span: the largest value over the smallest.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    steps = (1, 2, 5) if span < 50 else (1,)
    axis.xaxis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _short(number: float) -> str:
    """0.5, 5,000, 50k, 5M."""
    for unit, sign in ((1e6, "M"), (1e3, "k")):
        if number >= max(unit, 1e4):
            return f"{number / unit:g}{sign}"
    return f"{number:,.0f}" if number >= 1 else f"{number:g}"


def draw_points(
    panels: Sequence[tuple[str, Points]],
    path: Path,
    *,
    y_label: str = "accuracy (%)",
    log: bool = False,
    caption: str = "",
) -> None:
    """A panel per (x label, points); a method has one colour and marker in all of them."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    trainers = sorted({trainer for _, points in panels for trainer in points})
    looks = styles([(trainer, trainer) for trainer in trainers])
    for axis, (label, points) in zip(axes.flat, panels):
        for trainer, pairs in sorted(points.items(), key=lambda item: item[0] != ZERO_SHOT):
            look = looks[trainer] | {"linestyle": "none"}  # zero-shot lies below the others
            xs, ys = zip(*pairs)
            axis.plot(xs, ys, label=paper_name(trainer), markersize=5, alpha=0.8, **look)
        places = [x for pairs in points.values() for x, _ in pairs]
        if log and max(places) > 10 * min(places) > 0:  # a decade or more
            log_scale(axis, max(places) / min(places))
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylabel(y_label, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3, linewidth=0.5)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    shown: dict[str, object] = {}
    for axis in axes.flat:
        handles, names = axis.get_legend_handles_labels()
        shown |= dict(zip(names, handles))
    legend_below(figure, list(shown.values()), list(shown), size=8)
    if caption:
        figure.suptitle(plain(caption), fontsize=7)
    save_figure(figure, path)

"""Few-shot curves: accuracy over shots per method, as papers show them, and the same as text.

python tools/plot_curves.py output/fewshot/toy_objects output/zeroshot/toy_objects
python tools/plot_curves.py output/fewshot output/zeroshot --average --output average.png
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import TYPE_CHECKING

from tabulate import tabulate

from dassl.flags import FlagParser
from dassl.terminal import as_script
from tools.results.averages import average_of
from tools.results.figures import (
    legend_below,
    paper_name,
    plain,
    save_figure,
    styles,
    width_in_inches,
)
from tools.results.records import Record, load_records
from tools.results.series import Key, group, recipe_family
from tools.results.statistics import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROTOCOLS = ("fewshot", "zeroshot", "")
COLUMNS = 3  # panels side by side
NARROW = 4.0  # inches: one panel a row, smaller text
RULES_WITH_LABEL = ("test",)  # numbers that test labels chose are marked wherever they appear


@dataclass
class Curve:
    """One method on one dataset: shots -> (mean, std over seeds), percent; 0 shots: untrained."""

    label: str
    trainer: str
    points: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_untrained(self) -> bool:
        """Whether there is a zero-shot value only."""
        return set(self.points) == {0}


def read_curves(records: Iterable[Record], metric: str) -> dict[str, list[Curve]]:
    """Dataset -> curves, zero-shot first, then by name.

    Raises:
        ValueError: if no few-shot or zero-shot run has the metric.
    """
    found: dict[str, dict[str, Curve]] = defaultdict(dict)
    series = [
        s
        for s in group(records)
        if s.key.protocol in PROTOCOLS
        and s.key.classifier == "test"
        and not (s.key.source or s.trains_on_all)
    ]
    labels = _labels([s.key for s in series])
    for one, label in zip(series, labels, strict=True):
        cell = one.cell(metric)
        if cell is not None:
            curve = found[one.key.dataset].setdefault(label, Curve(label, one.key.trainer))
            curve.points[_shots(one.key)] = _pair(cell)
    if not found:
        raise ValueError(f"No few-shot or zero-shot run with the metric {metric} under them.")
    ordered = {
        dataset: sorted(curves.values(), key=lambda c: (not c.is_untrained, c.label))
        for dataset, curves in sorted(found.items())
    }
    trained = {
        dataset: curves
        for dataset, curves in ordered.items()
        if not all(curve.is_untrained for curve in curves)
    }
    return trained or ordered  # a panel with zero-shot alone says nothing beside others


def _pair(cell: Cell) -> tuple[float, float]:
    return cell.mean, cell.std or 0.0


def _shots(key: Key) -> int:
    return key.shots if key.protocol != "zeroshot" else 0


def _labels(keys: Sequence[Key]) -> list[str]:
    """Trainer, and what else tells the methods of one figure apart: no point has two values.

    Recipes that differ in their epochs are one curve (CoOp trains 1 and 16 shots for other numbers
    of epochs), unless two of them were run with equal shots.
    """
    recipes = [[recipe_family(key.recipe) for key in keys], [key.recipe for key in keys]]
    recipes.append([f"{key.recipe} {key.protocol}" for key in keys])
    for names in recipes:
        labels = _labels_with(keys, names)
        if len({(key.dataset, _shots(key), label) for key, label in zip(keys, labels)}) == len(
            keys
        ):
            break
    return labels


def _labels_with(keys: Sequence[Key], recipes: Sequence[str]) -> list[str]:
    variants: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for key, recipe in zip(keys, recipes):
        variants[key.trainer].append((recipe, key.backbone, key.rule, key.part))
    labels = []
    for key, recipe in zip(keys, recipes):
        differ = [len(set(values)) > 1 for values in zip(*variants[key.trainer])]
        label = paper_name(key.trainer)
        label += f" {recipe}" * differ[0]
        label += f" ({key.backbone})" * differ[1]
        label += f" {key.part}" * differ[3]
        label += f" [{key.settings}]" if key.settings else ""
        if key.rule in RULES_WITH_LABEL:
            label += f" [selected on {key.rule}]"
        elif differ[2]:
            label += f" [rule {key.rule}]"
        labels.append(label)
    return labels


def averaged(curves: dict[str, list[Curve]]) -> dict[str, list[Curve]]:
    """Mean over the datasets, of methods and shots that every dataset has."""
    by_label: dict[str, list[Curve]] = defaultdict(list)
    for of_dataset in curves.values():
        for curve in of_dataset:
            by_label[curve.label].append(curve)
    result = []
    for label, members in by_label.items():
        if len(members) != len(curves):
            continue
        shots = set.intersection(*(set(member.points) for member in members))
        points = {
            k: (
                sum(m.points[k][0] for m in members) / len(members),
                math.sqrt(sum(m.points[k][1] ** 2 for m in members)) / len(members),
            )
            for k in sorted(shots)
        }
        if points:
            result.append(Curve(label, members[0].trainer, points))
    return {average_of(curves): result}


def as_text(curves: dict[str, list[Curve]]) -> str:
    """One table per dataset: methods in rows, shots in columns, mean ± std over seeds."""
    tables = []
    for dataset, members in curves.items():
        shots = sorted({k for curve in members for k in curve.points})
        rows = [[c.label, *(_shown(c.points.get(k)) for k in shots)] for c in members]
        align = ["left", *("right" for _ in shots)]
        text = tabulate(rows, ["method", *shots], colalign=align, disable_numparse=True)
        tables.append(f"{dataset}\n{text}")
    return "\n\n".join(tables)


def _shown(point: tuple[float, float] | None) -> str:
    if point is None:
        return ""
    return f"{point[0]:.1f} ± {point[1]:.1f}" if point[1] else f"{point[0]:.1f}"


def draw(
    curves: dict[str, list[Curve]],
    path: Path,
    metric: str,
    *,
    width: float | None = None,
    caption: str = "",
) -> None:
    """Write the figure: a panel per dataset, shots on a log axis, zero-shot as a star at 0.

    Args:
        curves: dataset -> curves.
        path: PNG, PDF or SVG.
        metric: on the other axis, in percent.
        width: of the figure, inches; None: what the panels need.
        caption: a line above the panels.
    """
    from matplotlib.figure import Figure

    columns = min(COLUMNS if width is None or width > NARROW else 1, len(curves))
    rows = -(-len(curves) // columns)
    width = 4.2 * columns if width is None else width
    size = 7 if width <= NARROW else 8
    methods = {c.label: c.trainer for members in curves.values() for c in members}
    height = max(0.8 * width / columns, 2.0) * rows + 0.3
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    looks = styles([(methods[label], label) for label in sorted(methods)])
    for axis, (dataset, members) in zip(axes.flat, curves.items()):
        _panel(axis, dataset, members, looks, size)
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel(f"{metric.replace('_', ' ')} (%)", fontsize=size)
    shown: dict[str, object] = {}
    for axis in axes.flat:
        handles, names = axis.get_legend_handles_labels()
        shown |= dict(zip(names, handles))
    in_order = sorted(shown)
    legend_below(figure, [shown[name] for name in in_order], in_order, size=size)
    if caption:
        figure.suptitle("\n".join(wrap(caption, int(width * 130 / size))), fontsize=size - 1)
    save_figure(figure, path)


def _panel(
    axis: Axes, dataset: str, members: Sequence[Curve], looks: dict[str, dict], size: float
) -> None:
    shots = sorted({k for curve in members for k in curve.points})
    trained = [k for k in shots if k > 0]
    first = trained[0] if trained else 2
    place = {k: k if k > 0 else first / 2 for k in shots}  # 0 is not on a log axis
    for curve in members:
        keys = sorted(curve.points)
        means, stds = zip(*(curve.points[k] for k in keys))
        look = dict(looks[curve.label])
        if curve.is_untrained:
            axis.axhline(means[0], color=look["color"], linewidth=0.8, linestyle=":")
            look |= {"marker": "*", "linestyle": "none", "markersize": 8}
        axis.errorbar([place[k] for k in keys], means, yerr=stds if any(stds) else None,
                      label=curve.label, capsize=2, linewidth=1.2,
                      **{"markersize": 3.5, **look})  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks([place[k] for k in shots], [str(k) for k in shots])
    axis.minorticks_off()
    axis.tick_params(labelsize=size - 1)
    axis.set_xlabel("labelled images per class", fontsize=size)
    axis.set_title(plain(dataset), fontsize=size + 1)
    axis.grid(alpha=0.3, linewidth=0.5)


def caption_of(records: Sequence[Record], metric: str) -> str:
    """What a caption must say: the number, its seeds, the rule that chose, and the bars."""
    trained = [record for record in records if record.shots > 0] or list(records)
    seeds = sorted({record.seed for record in trained})
    rules = ", ".join(sorted({record.rule for record in trained if record.rule}))
    words = f"Test {metric.replace('_', ' ')}, mean over seeds {', '.join(map(str, seeds))}"
    bars = "; bars: ± std (n\u00a0−\u00a01)" if len(seeds) > 1 else "; one seed, so no bars"
    return words + bars + (f"; selection rule: {rules}." if rules else ".")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders that hold runs")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help="PNG, PDF or SVG")
    parser.add_argument("--metric", default="accuracy", help="accuracy, error_rate or macro_f1")
    parser.add_argument("--methods", default="", help="only these, separated by commas")
    parser.add_argument("--average", action="store_true", help="one panel: the mean over datasets")
    parser.add_argument("--width", default="", help="column, text, or inches")
    args = parser.parse_args(argv)
    width = width_in_inches(args.width)
    records = load_records(args.folders).records
    curves = read_curves(records, args.metric)
    if args.methods:
        curves = chosen(curves, set(args.methods.split(",")))
    if args.average:
        curves = averaged(curves)
    print(as_text(curves))
    caption = caption_of(records, args.metric)
    draw(curves, args.output, args.metric, width=width, caption=caption)
    print(f"\nWritten to {args.output}")


def chosen(curves: dict[str, list[Curve]], wanted: set[str]) -> dict[str, list[Curve]]:
    """The curves of these trainers.

    Raises:
        ValueError: there are no runs of one of them.
    """
    known = {curve.trainer for members in curves.values() for curve in members}
    if wanted - known:
        raise ValueError(
            f"--methods names {', '.join(sorted(wanted - known))}; there are runs of "
            f"{', '.join(sorted(known))}."
        )
    return {d: [c for c in members if c.trainer in wanted] for d, members in curves.items()}


if __name__ == "__main__":
    as_script(main)

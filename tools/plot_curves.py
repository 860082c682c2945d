"""Few-shot curves: accuracy over shots per method, as papers show them, and the same as text.

python tools/plot_curves.py output/fewshot/toy_objects output/zeroshot/toy_objects
python tools/plot_curves.py output/fewshot output/zeroshot --average --output average.png
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tabulate import tabulate

from dassl.flags import FlagParser
from tools.results.averages import average_of
from tools.results.records import load_records
from tools.results.series import Key, group, recipe_family
from tools.results.statistics import Cell

PROTOCOLS = ("fewshot", "zeroshot", "")
COLUMNS = 3  # panels side by side
COLOURS, MARKERS, LINES = 10, "osD^vPX*<>", ("-", "--", ":")
LEGEND = "outside right upper"  # beside the panels: it hides no curve
RULES_WITH_LABEL = ("test",)  # numbers that test labels chose are marked wherever they appear


@dataclass
class Curve:
    """One method on one dataset: shots -> (mean, std over seeds), percent; 0 shots: untrained."""

    label: str
    points: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def is_untrained(self) -> bool:
        """Whether there is a zero-shot value only."""
        return set(self.points) == {0}


def read_curves(folders: Iterable[Path], metric: str) -> dict[str, list[Curve]]:
    """Dataset -> curves, zero-shot first, then by name.

    Raises:
        ValueError: if no few-shot or zero-shot run under the folders has the metric.
    """
    found: dict[str, dict[str, Curve]] = defaultdict(dict)
    series = [
        s
        for s in group(load_records(folders).records)
        if s.key.protocol in PROTOCOLS
        and s.key.classifier == "test"
        and not (s.key.source or s.trains_on_all)
    ]
    labels = _labels([s.key for s in series])
    for one, label in zip(series, labels, strict=True):
        cell = one.cell(metric)
        if cell is not None:
            curve = found[one.key.dataset].setdefault(label, Curve(label))
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
        label = key.trainer
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
            result.append(Curve(label, points))
    return {average_of(curves): result}


def as_text(curves: dict[str, list[Curve]]) -> str:
    """One table per dataset: methods in rows, shots in columns, mean ± std over seeds."""
    tables = []
    for dataset, members in curves.items():
        shots = sorted({k for curve in members for k in curve.points})
        rows = [[c.label, *(_shown(c.points.get(k)) for k in shots)] for c in members]
        tables.append(f"{dataset}\n" + tabulate(rows, headers=["method", *shots]))
    return "\n\n".join(tables)


def _shown(point: tuple[float, float] | None) -> str:
    if point is None:
        return ""
    return f"{point[0]:.1f} ± {point[1]:.1f}" if point[1] else f"{point[0]:.1f}"


def draw(curves: dict[str, list[Curve]], path: Path, metric: str) -> None:
    """Write the figure: a panel per dataset, shots on a base-2 axis, zero-shot as a star at 0."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    size = (4.8 * columns, 3.8 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    labels = sorted({curve.label for members in curves.values() for curve in members})
    styles = {label: _style(i) for i, label in enumerate(labels)}
    for axis, (dataset, members) in zip(axes.flat, curves.items()):
        _panel(axis, dataset, members, styles)
    for axis in axes.flat[len(curves) :]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel(f"{metric} (%)")
    shown = {}
    for axis in axes.flat:
        handles, names = axis.get_legend_handles_labels()
        shown |= dict(zip(names, handles))
    in_order = sorted(shown, key=lambda name: labels.index(name))
    figure.legend([shown[name] for name in in_order], in_order, fontsize=7, loc=LEGEND)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _style(number: int) -> dict[str, str]:
    """Colour, marker and line of the n-th label; no two of the first hundred are the same."""
    lap = number // COLOURS
    marker = MARKERS[(number + lap) % len(MARKERS)]
    return {"color": f"C{number % COLOURS}", "marker": marker, "linestyle": LINES[lap % len(LINES)]}


def _panel(axis, dataset: str, members: Sequence[Curve], styles: dict[str, dict]) -> None:
    shots = sorted({k for curve in members for k in curve.points})
    place = {k: i for i, k in enumerate(shots)}
    for curve in members:
        keys = sorted(curve.points)
        means, stds = zip(*(curve.points[k] for k in keys))
        style = dict(styles[curve.label])
        if curve.is_untrained:
            axis.axhline(means[0], color=style["color"], linewidth=0.8, linestyle=":")
            style |= {"marker": "*", "linestyle": "none", "markersize": 10}
        axis.errorbar([place[k] for k in keys], means, yerr=stds, label=curve.label, capsize=2,
                      linewidth=1.4, **{"markersize": 4, **style})  # fmt: skip
    axis.set_xticks(range(len(shots)), [str(k) for k in shots])
    axis.set_xlabel("labelled images per class")
    axis.set_title(dataset)
    axis.grid(alpha=0.3)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders that hold runs")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), help="PNG, PDF or SVG")
    parser.add_argument("--metric", default="accuracy", help="accuracy, error_rate or macro_f1")
    parser.add_argument("--methods", default="", help="only these, separated by commas")
    parser.add_argument("--average", action="store_true", help="one panel: the mean over datasets")
    args = parser.parse_args(argv)
    curves = read_curves(args.folders, args.metric)
    if args.methods:
        wanted = set(args.methods.split(","))
        known = {c.label.split()[0] for members in curves.values() for c in members}
        if wanted - known:
            raise ValueError(
                f"--methods names {', '.join(sorted(wanted - known))}; there are runs of "
                f"{', '.join(sorted(known))}."
            )
        curves = {d: [c for c in m if c.label.split()[0] in wanted] for d, m in curves.items()}
    if args.average:
        curves = averaged(curves)
    print(as_text(curves))
    draw(curves, args.output, args.metric)
    print(f"\nWritten to {args.output}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"plot_curves.py: {error}")

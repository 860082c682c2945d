"""What a stream leaves: a row per image (CSV), a summary (JSON), and a picture of its course."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dassl.data.datasets import Datum
from dassl.utils import atomic_write, write_json
from dassl.utils.text import cell

if TYPE_CHECKING:
    from .stream import Stream

WINDOWS = 20  # the moving accuracy is over N / WINDOWS images
CURVE_POINTS = 200  # of the JSON's curve


def accuracies(predictions: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """Classifier -> accuracy in percent."""
    return {
        name: 100.0 * int((rows == labels).sum()) / len(labels)
        for name, rows in predictions.items()
    }


def running_accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """(N,) accuracy in percent over all images up to each one."""
    correct = (predictions == labels).double().cumsum(dim=0)
    return 100.0 * correct / torch.arange(1, len(labels) + 1)


def moving_accuracy(predictions: Tensor, labels: Tensor, window: int) -> Tensor:
    """(N,) accuracy in percent over the last ``window`` images (fewer at the start)."""
    correct = torch.cat([torch.zeros(1), (predictions == labels).float().cumsum(dim=0)])
    places = torch.arange(1, len(labels) + 1)
    first = (places - window).clamp_min(0)
    return 100.0 * (correct[places] - correct[first]) / (places - first)


def stored_images(slots: Tensor, pseudo_labels: Tensor) -> Tensor:
    """(N,) number of occupied slots after each image.

    Args:
        slots: (N,) slot that an image was written to, -1 if it was rejected.
        pseudo_labels: (N,) class that it was written to.
    """
    taken: set[tuple[int, int]] = set()
    counts = []
    for slot, label in zip(slots.tolist(), pseudo_labels.tolist(), strict=True):
        if slot >= 0:
            taken.add((label, slot))
        counts.append(len(taken))
    return torch.tensor(counts)


def write_stream_report(
    output_dir: str | Path,
    split: str,
    items: Sequence[Datum],
    stream: "Stream",
    predictions: Mapping[str, Tensor],
    labels: Tensor,
    facts: Mapping[str, Any],
) -> list[Path]:
    """Write stream_<split>.csv, .json and .png; returns their paths."""
    base = Path(output_dir)
    base.mkdir(parents=True, exist_ok=True)
    paths = [base / f"stream_{split}.{kind}" for kind in ("csv", "json", "png")]
    notes = stream.group("note")
    occupied = None
    if {"slot", "pseudo_label"} <= notes.keys():
        occupied = stored_images(notes["slot"], notes["pseudo_label"])
        notes = {**notes, "stored": occupied}
    _write_rows(paths[0], items, stream, predictions, labels, notes)
    curves = {name: running_accuracy(rows, labels) for name, rows in predictions.items()}
    places = torch.linspace(0, len(labels) - 1, min(CURVE_POINTS, len(labels))).long()
    curve = {"image": (places + 1).tolist()}
    curve |= {name: [round(v, 3) for v in rows[places].tolist()] for name, rows in curves.items()}
    write_json({**facts, "curve": curve}, str(paths[1]))
    _draw(paths[2], facts, curves, predictions["fused"], labels, occupied)
    return paths


def _write_rows(
    path: Path,
    items: Sequence[Datum],
    stream: "Stream",
    predictions: Mapping[str, Tensor],
    labels: Tensor,
    notes: Mapping[str, Tensor],
) -> None:
    columns = {"index": stream.order[: len(labels)], "label": labels}
    columns |= {f"pred_{name}": rows for name, rows in predictions.items()}
    columns |= notes
    values = [rows.tolist() for rows in columns.values()]
    with atomic_write(path) as temporary, Path(temporary).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["position", *columns, "path"])
        for position, row in enumerate(zip(*values, strict=True)):
            writer.writerow([position, *row, cell(items[row[0]].impath)])


def _draw(
    path: Path,
    facts: Mapping[str, Any],
    curves: Mapping[str, Tensor],
    fused: Tensor,
    labels: Tensor,
    occupied: Tensor | None,
) -> None:
    """Running accuracy of every classifier, moving accuracy of the fused one, memory."""
    from matplotlib.figure import Figure  # slow to import, needed here only

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    images = range(1, len(labels) + 1)
    for name, rows in curves.items():
        style = {"linewidth": 2.2, "color": "black"} if name == "fused" else {"linewidth": 1.3}
        axes.plot(images, rows, label=f"{name} {float(rows[-1]):.1f}%", **style)
    window = max(len(labels) // WINDOWS, 1)
    moving = moving_accuracy(fused, labels, window)
    settled = [float(v) for rows in [*curves.values(), moving] for v in rows[window - 1 :]]
    axes.set_ylim(max(min(settled) - 5, 0), min(max(settled) + 5, 101))
    axes.plot(images, moving, color="0.6", linewidth=0.8, label=f"fused, last {window} images")
    axes.set_xlabel("test images seen")
    axes.set_ylabel("accuracy so far (%)")
    axes.set_title(f"{facts['split']} stream, order seed {facts['seed']}, rule {facts['rule']}")
    if occupied is not None:
        memory = axes.twinx()
        memory.fill_between(images, occupied, color="tab:blue", alpha=0.12, linewidth=0)
        memory.set_ylabel("occupied memory slots")
        memory.set_ylim(bottom=0)
    axes.legend(loc="lower right", fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)

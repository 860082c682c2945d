"""One self-contained HTML page about runs: tables, curves, calibration, mistakes.

python tools/report.py output -o report.html
python tools/report.py output/fewshot output/zeroshot -o report.html --details 4

The page needs no server and asks for nothing from elsewhere: figures and thumbnails are inside.
Columns sort by a click on their header, the field on top filters. Details (confusion matrix,
accuracy per class, reliability diagram, most confident mistakes) are shown for the first seed of
each method, up to --details runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import io
import tempfile
from collections.abc import Sequence
from html import escape

from PIL import Image, ImageOps, UnidentifiedImageError

from dassl.evaluation.predictions import PREDICTIONS_FILE, Predictions, read_predictions
from dassl.flags import FlagParser
from dassl.terminal import answered, as_script
from dassl.utils import write_text
from tools.measures import draw_confusion, draw_reliability
from tools.plot_curves import caption_of, draw, read_curves
from tools.results import page
from tools.results.figures import paper_name
from tools.results.measures import bootstrap_interval, confident_mistakes, confusion, per_class
from tools.results.measures import measures as measures_of
from tools.results.records import Record, load_records
from tools.results.report import build_tables

THUMBNAIL = 128  # pixels, the longer side
RUN_COLUMNS = (
    *("protocol", "dataset", "method", "recipe", "backbone", "shots", "seed", "accuracy"),
    *("95 % (test images)", "macro-F1", "ECE", "ECE calibrated", "NLL", "rule"),
    *("training s", "parameters", "memory MiB", "source", "folder"),
)


def report(folders: Sequence[Path], *, details: int, mistakes: int) -> str:
    """The page about all runs under the folders.

    Raises:
        FileNotFoundError: there is no finished run.
    """
    found = load_records(folders)
    records = found.records
    parts = [page.section("Results", *_tables(records))]
    parts += _curves(records)
    rows = [_row(record, found.warnings) for record in sorted(records, key=_place)]
    parts.append(page.section("Runs", page.table(RUN_COLUMNS, rows, name="runs")))
    parts.append(page.section("Details", *_details(records, details, mistakes)))
    if found.warnings:
        parts.append(page.section("Left out", page.notes(found.warnings)))
    names = ", ".join(folder.as_posix() for folder in folders)
    return page.page(f"Runs in {names}", parts)


def _tables(records: Sequence[Record]) -> list[str]:
    """The tables of parse_test_res.py, with published numbers; title or column name the rule."""
    parts = []
    for table in build_tables(records, published=True):
        heading = f"<h3>{escape(table.title)}</h3>\n"
        trainer = table.headers.index("trainer") if "trainer" in table.headers else -1
        rows = [
            [paper_name(cell) if place == trainer else cell for place, cell in enumerate(row)]
            for row in table.rows
        ]
        parts += [heading, page.table(table.headers, rows), page.notes(table.notes)]
    return parts


def _curves(records: Sequence[Record]) -> list[str]:
    """The few-shot curves, where there is more than one number of shots: a picture per dataset."""
    if len({record.shots for record in records if record.protocol == "fewshot"}) < 2:
        return []
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.svg"
        for dataset, curves in read_curves(records, "accuracy").items():
            draw({dataset: curves}, path, "accuracy")
            pictures.append(page.picture(path.read_bytes(), "image/svg+xml", dataset))
    side = f'<div class="side">{"".join(pictures)}</div>\n'
    return [page.section("Curves", page.notes([caption_of(records, "accuracy")]), side)]


def _place(record: Record) -> tuple:
    of_set = record.protocol, record.part, record.dataset, record.target
    return (*of_set, paper_name(record.trainer), record.recipe, record.shots, record.seed)


def _row(record: Record, warnings: list[str]) -> list[str]:
    """One line of the table of runs; damaged predictions are named in ``warnings``."""
    test, data = record.metrics.get("test", {}), record.details
    found = _measures(record, warnings)
    source = data.get("source_code") or {}
    commit = str(source.get("commit", ""))[:10] + " (edited)" * bool(source.get("dirty"))
    values = {
        "protocol": " ".join(filter(None, (record.protocol, record.part))),
        "dataset": " ".join(filter(None, (record.dataset, record.target))),
        "method": paper_name(record.trainer),
        "recipe": record.recipe,
        "backbone": record.backbone,
        "shots": "all" if record.trains_on_all else record.shots,
        "seed": record.seed,
        "accuracy": test.get("accuracy"),
        "95 % (test images)": found.get("interval", ""),
        "macro-F1": test.get("macro_f1"),
        "ECE": found.get("ece"),
        "ECE calibrated": found.get("ece_calibrated"),
        "NLL": found.get("nll"),
        "rule": record.rule + " †" * (record.rule == "test"),
        "training s": (data.get("seconds") or {}).get("train"),
        "parameters": data.get("trainable_parameters"),
        "memory MiB": (data.get("peak_memory_bytes") or 0) / 2**20 or None,
        "source": commit,
        "folder": record.path.as_posix(),
    }
    return [_text(values[name]) for name in RUN_COLUMNS]


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _measures(record: Record, warnings: list[str]) -> dict:
    """Measures from the run's predictions, {} where it kept none of its test images."""
    kept = _kept(record, warnings)
    if kept is None:
        return {}
    low, high = bootstrap_interval(kept.splits["test"])
    return {**measures_of(kept), "interval": f"{low:.1f} to {high:.1f}"}


def _kept(record: Record, warnings: list[str]) -> Predictions | None:
    if not (record.path / PREDICTIONS_FILE).is_file():
        return None
    try:
        kept = read_predictions(record.path)
    except ValueError as err:  # other runs are shown
        warnings.append(str(err))
        return None
    return kept if "test" in kept.splits else None


def _details(records: Sequence[Record], limit: int, mistakes: int) -> list[str]:
    """A folded part per method and place: of its first seed."""
    first: dict[tuple, Record] = {}
    for record in sorted(records, key=lambda one: one.seed):
        place = record.protocol, record.part, record.dataset, record.target, record.shots
        if (record.path / PREDICTIONS_FILE).is_file():
            first.setdefault((*place, record.trainer, record.recipe, record.backbone), record)
    chosen = [first[key] for key in sorted(first)]
    parts = [_detail(record, mistakes) for record in chosen[:limit]]
    if len(chosen) > limit:
        parts.append(page.notes([f"{len(chosen) - limit} more: --details {len(chosen)}."]))
    return parts or [page.notes(["No run here kept its predictions."])]


def _detail(record: Record, mistakes: int) -> str:
    kept = _kept(record, [])
    words = [paper_name(record.trainer), record.dataset, record.part, record.target]
    shots = f"{record.shots} shot{'s' * (record.shots > 1)}" if record.shots else ""
    words += [shots, f"seed {record.seed}"]
    summary = ", ".join(filter(None, words))
    if kept is None:
        return page.folded(summary, page.notes(["No predictions of test images."]))
    with tempfile.TemporaryDirectory() as folder:
        matrix, diagram = Path(folder) / "confusion.png", Path(folder) / "reliability.png"
        draw_confusion(confusion(kept.splits["test"]), kept.classnames, matrix)
        draw_reliability(kept, "test", diagram)
        figures = [
            page.picture(matrix.read_bytes(), "image/png", "Confusion matrix"),
            page.picture(diagram.read_bytes(), "image/png", "Reliability diagram"),
        ]
    classes = [[_text(value) for value in line.values()] for line in per_class(kept)]
    heads = ("class", "images", "correct", "accuracy")
    return page.folded(
        summary,
        f'<div class="side">{"".join(figures)}</div>\n',
        "<h3>Most confident mistakes</h3>\n",
        f'<div class="mistakes">{"".join(_mistakes(kept, mistakes))}</div>\n',
        "<h3>Accuracy per class</h3>\n",
        page.table(heads, classes, filtered=False),
    )


def _mistakes(kept: Predictions, count: int) -> list[str]:
    shown = []
    for one in confident_mistakes(kept, count=count):
        caption = f"{one['predicted']} ({one['probability']:.0f}\u00a0%); true: {one['truth']}"
        content = thumbnail(Path(kept.folder) / one["image"]) if kept.folder else None
        if content is None:
            reason = f"The image is gone: {one['image']}"
            shown.append(page.missing_picture(reason, caption))
        else:
            shown.append(page.picture(content, "image/jpeg", caption))
    return shown


def thumbnail(path: Path) -> bytes | None:
    """A small JPEG of an image file, upright; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", nargs="*", type=Path, help="folders with runs (default: output)")
    add("-o", "--output", type=Path, default=Path("report.html"), help="default: report.html")
    add("--details", type=int, default=12, help="runs with details (default 12)")
    add("--mistakes", type=int, default=12, help="mistakes of each of them (default 12)")
    args = parser.parse_args(argv)
    return answered(lambda: write_report(args))


def write_report(args: argparse.Namespace) -> None:
    """Write the page, and say where."""
    folders = args.folders or [Path("output")]
    content = report(folders, details=args.details, mistakes=args.mistakes)
    write_text(args.output, content)
    print(f"Written: {args.output} ({args.output.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    as_script(main)

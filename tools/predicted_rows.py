"""What predict.py says about images: rows of a table, streamed or written at once."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dassl.utils.files import atomic_write, errors_of_writing
from dassl.utils.text import cell

Row = dict[str, Any]


def ranked(
    path: Path,
    values: Sequence[float],
    labels: Sequence[int],
    classnames: Sequence[str],
    *,
    is_calibrated: bool,
    reject: float | None,
) -> list[Row]:
    """A row for each of the most probable classes of an image, best first.

    Args:
        reject: the image is rejected where the best class is less probable; None: never.
    """
    rejected = {} if reject is None else {"rejected": round(values[0], 6) < reject}
    return [
        {
            "image": str(path),
            "rank": rank,
            "label": label,  # tells classes of the same name apart
            "class": classnames[label],
            "probability": round(value, 6),
            "calibrated": is_calibrated,
            **rejected,
        }
        for rank, (value, label) in enumerate(zip(values, labels), 1)
    ]


def shown(row: Row) -> Row:
    """A row for the console; "?" marks the best class where it is rejected."""
    is_rejected = row.get("rejected") and row["rank"] == 1
    percent = f"{100 * row['probability']:.1f} %{' ?' if is_rejected else ''}"
    title = "probability" if row["calibrated"] else "probability (not calibrated)"
    return {name: row[name] for name in ("image", "rank", "label", "class")} | {title: percent}


def in_columns(rows: Sequence[Row]) -> Row:
    """The rows of one image as one: class_1, label_1, probability_1, class_2, ..."""
    of_image = ("image", "rejected", "calibrated")
    wide = {name: rows[0][name] for name in of_image if name in rows[0]}
    for row in rows:
        wide |= {f"{name}_{row['rank']}": row[name] for name in ("class", "label", "probability")}
    return wide


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write predictions as CSV or JSON, by the file's ending, or nothing where that fails."""
    with atomic_write(path) as temporary:
        if path.suffix == ".json":
            temporary.write_text(json.dumps(rows, indent=2), encoding="utf-8")
            return
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)


@contextlib.contextmanager
def streaming(as_csv: str | None, as_json: str | None) -> Iterator[Callable[[list[Row]], None]]:
    """What takes the rows of an image and writes them at once, to a file or, for -, to stdout."""
    target = as_csv or as_json
    if not target:
        yield lambda rows: None
        return
    with contextlib.ExitStack() as stack:
        if target == "-":
            file = sys.stdout
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(errors_of_writing(target))
            file = stack.enter_context(
                open(target, "w", newline="", encoding="utf-8", errors="backslashreplace")
            )
        table = csv.writer(file, lineterminator="\n")
        has_header = False

        def write(rows: list[dict[str, Any]]) -> None:
            nonlocal has_header
            wide = in_columns(rows)
            if as_json:
                file.write(json.dumps(wide) + "\n")
            else:
                if not has_header:
                    table.writerow(wide)
                table.writerow(cell(value) for value in wide.values())
            has_header = True
            file.flush()

        yield write

"""How methods look in figures: names as in their papers, one colour each, sizes that fit a page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dassl.utils import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER_NAMES = {
    "AMU": "AMU-Tuning",
    "CLIPAdapter": "CLIP-Adapter",
    "LinearProbe": "Linear probe",
    "NaiveKD": "Naive KD",
    "TipAdapter": "Tip-Adapter",
    "TipAdapterF": "Tip-Adapter-F",
    "VL2VADiP": "VL2V-ADiP",
    "VL2VSD": "VL2V-SD",
    "ZeroshotCLIP": "CLIP (zero-shot)",
}
# Okabe and Ito's palette, told apart also with colour vision deficiency; yellow is left out: it
# vanishes on white. The place of a method in ORDER chooses its colour and marker in every figure.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, LINES = "osD^vPX*<>h", ("-", "--", "-.", ":")
ORDER = (
    *("TaskRes", "MMA", "DMN", "AMU", "TipAdapterF", "CoOp", "ZeroshotCLIP"),
    *("VL2VADiP", "CoCoOp", "MaPLe", "PromptSRC", "TipAdapter", "CLIPAdapter", "TPT"),
    *("KgCoOp", "ProGrad", "ProDA", "LASP", "RPO", "IVLP", "CLAP"),
    *("LinearProbe", "ERM", "MIRO", "NaiveKD", "VL2VSD", "LP", "LPFT"),
)
WIDTHS = {"column": 3.35, "text": 6.9}  # inches, of two-column proceedings
RASTER = 200  # dots per inch of PNG


def paper_name(trainer: str) -> str:
    """A trainer as its paper calls it."""
    return PAPER_NAMES.get(trainer, trainer)


def styles(labels: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Label -> colour, marker and line, for (trainer, label) pairs.

    The colour is the method's in every figure; a further variant of it in the same figure has
    another marker and line. No two labels of a figure look the same.
    """
    seen: dict[str, int] = defaultdict(int)
    unknown = sorted({trainer for trainer, _ in labels} - set(ORDER))
    order = [*ORDER, *unknown]
    found, taken = {}, set()
    for trainer, label in labels:
        place = order.index(trainer)
        lap = place // len(COLOURS) + seen[trainer]
        seen[trainer] += 1
        marker = place
        while (look := (place % len(COLOURS), marker % len(MARKERS), lap % len(LINES))) in taken:
            marker, lap = marker + 1, lap + (marker % len(MARKERS) == len(MARKERS) - 1)
        taken.add(look)
        found[label] = {
            "color": COLOURS[look[0]], "marker": MARKERS[look[1]], "linestyle": LINES[look[2]],
        }  # fmt: skip
    return found


def width_in_inches(text: str) -> float | None:
    """`column`, `text` or a number of inches; "" leaves it to the figure.

    Raises:
        ValueError: saying what is possible.
    """
    try:
        width = WIDTHS[text] if text in WIDTHS else float(text) if text else None
    except ValueError:
        width = -1.0
    if width is not None and not 1 <= width <= 40:
        raise ValueError(f'--width is "{text}"; expected column, text, or inches from 1 to 40.')
    return width


def plain(text: str) -> str:
    """A name as text of a figure: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Write PNG, PDF or SVG by the suffix, atomically; text in PDF and SVG stays text.

    Raises:
        ValueError: for another suffix.
    """
    from matplotlib import rc_context

    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "pdf", "svg"):
        raise ValueError(f"{path}: expected a file name that ends with .png, .pdf or .svg.")
    fonts: Any = {"pdf.fonttype": 42, "svg.fonttype": "none"}
    with rc_context(fonts), atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=RASTER)


def legend_below(figure: Figure, handles: Sequence, labels: Sequence[str], *, size: float) -> None:
    """A legend under the panels, in as many columns as the width has room for.

    The figure grows by its height, so that it covers nothing.
    """
    if not labels:
        return
    longest = max(map(len, labels)) * size * 0.6 / 72 + 0.5  # inches
    columns = max(1, min(len(labels), int(figure.get_figwidth() / longest)))
    lines = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + (lines * 1.5 + 1) * size / 72)
    shown = [plain(label) for label in labels]
    figure.legend(handles, shown, fontsize=size, loc="outside lower center", ncols=columns,
                  frameon=False)  # fmt: skip

"""docs/backbones.md is what tools/backbones.py writes; some cells are run again."""

import open_clip
import pytest

from tools import backbones
from tools.tiny_backbones import FAMILIES

PAGE = backbones.PAGE.read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(
    f"open_clip_torch {open_clip.__version__}." not in PAGE,
    reason="the page was written with another version of open_clip",
)


def tables() -> list[list[list[str]]]:
    """The tables of the page as lists of cells."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("|")]
    first = next(i for i, line in enumerate(lines) if line[0] == "method")
    return [lines[:first], lines[first:]]


def test_every_tag_of_open_clip_is_counted():
    counts = backbones.tags()
    rows = {row[0]: row[1] for row in tables()[0][2:]}

    assert rows.pop("all") == str(sum(counts.values()))
    assert rows == {FAMILIES[name].title: str(counts[name]) for name in FAMILIES}
    assert set(counts) <= set(FAMILIES)


def test_learned_texts_work_with_at_least_180_tags():
    total = tables()[0][-1]

    assert int(total[3]) >= 180
    assert int(total[2]) >= 160  # inside the image tower


def test_every_method_has_a_row_and_every_family_a_column():
    head, rows = tables()[1][0], tables()[1][2:]

    assert head[1:] == [family.title for family in FAMILIES.values()]
    assert [row[0] for row in rows] == backbones.methods()
    assert {cell for row in rows for cell in row[1:]} == {backbones.WORKS, backbones.REFUSES}


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("CoOp", "siglip"),
        ("CoOp", "hf_text"),
        ("TaskRes", "hf_text"),
        ("MMA", "eva02"),
        ("MMA", "mobileclip_s"),
        ("PromptSRC", "siglip"),
    ],
)
def test_a_cell_run_again_says_what_the_page_says(method, family):
    head, *rows = tables()[1]
    row = next(row for row in rows if row[0] == method)

    assert backbones.cell(method, family) == row[head.index(FAMILIES[family].title)]

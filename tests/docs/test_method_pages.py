"""The pages on methods: defaults are those of the code, numbers stand where they come from."""

import importlib
import re
from pathlib import Path

import pytest

from dassl.config.settings import flat
from dassl.engine import TRAINER_REGISTRY

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "methods").glob("*.md"))
TRAINER = {  # of a page on one method
    "taskres": "TaskRes",
    "mma": "MMA",
    "dmn": "DMN",
    "amu": "AMU",
    "vl2v_adip": "VL2VADiP",
}
SOURCES = {  # of the numbers in a section, by a word of its heading
    "cost": [DOCS / "benchmarks.md"],
    "Published": sorted((ROOT / "configs" / "published").glob("*.yaml")),
    "Measured": [DOCS / "toy_world.md"],
}
DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)")


def numbers(text):
    return {float(number) for number in DECIMAL.findall(text)}


def sections(page):
    """Heading -> text."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def stated_defaults(page):
    """(trainer, key, default as the page writes it), from `| key | trainers default | ...`."""
    rows = re.findall(
        r"^\| `([A-Z]\w*\.[\w.]+)` \| ([^|]+) \|", page.read_text("utf-8"), re.MULTILINE
    )
    for key, cell in rows:
        for trainers, value in re.findall(r"([\w ,]*)`([^`]*)`", cell):
            named = set(re.findall(r"\w+", trainers)) - {"and"} or {TRAINER[page.stem]}
            yield from ((trainer, key, value) for trainer in sorted(named))


def written(value):
    """A default as pages write it."""
    return str(tuple(value) if isinstance(value, list) else value) or '""'


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_defaults_of_a_page_are_those_of_the_code(page):
    importlib.import_module("trainers")
    stated = list(stated_defaults(page))

    assert len(stated) > 5
    for trainer, key, value in stated:
        defaults = flat(TRAINER_REGISTRY.get(trainer).default_cfg())
        assert (key, written(defaults[key])) == (key, value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.parametrize("word", SOURCES)
def test_the_numbers_of_a_section_stand_in_its_source(page, word):
    own = [path for path in SOURCES[word] if path.stem == page.stem]
    paths = own or SOURCES[word]
    known = numbers("\n".join(path.read_text(encoding="utf-8") for path in paths))
    texts = [text for heading, text in sections(page).items() if word in heading]

    assert texts or (page.stem, word) == ("test_time", "Measured")
    assert numbers("\n".join(texts)) - known == set()


def test_every_page_on_methods_is_in_the_table_of_contents_with_its_trainers():
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[[^]]+\]\(methods/(\w+)\.md\) \| (.+) \|$", text, re.MULTILINE))
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("| trainer |")[1]
    table = readme.split("\n\n")[0].splitlines()
    shipped = {n for row in table for n in re.findall(r"`(\w+)`", row.split("|")[1])} - {"SWAD"}

    assert sorted(rows) == [page.stem for page in PAGES]
    assert {name for cell in rows.values() for name in re.findall(r"`(\w+)`", cell)} == shipped
    for stem, cell in rows.items():
        page = (DOCS / "methods" / f"{stem}.md").read_text(encoding="utf-8")
        assert [n for n in re.findall(r"`(\w+)`", cell) if n not in page] == []

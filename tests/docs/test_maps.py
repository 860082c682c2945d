"""The maps of folders, and the reading lists of methods in CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("clip", "dassl", "datasets", "trainers", "tools", "vltune")
FOLDERS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob("__init__.py")
)
MAP_LINES = 10
MOST_FILES = {"TaskRes": 5, "DMN": 9, "MMA": 5, "AMU": 8, "VL2V-ADiP": 9}


def is_entry(path: Path) -> bool:
    """Whether a file is one of many of a kind, named by what it registers: a dataset, a method."""
    return "_REGISTRY.register()" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_begins_with_a_map_of_its_files(folder):
    text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text("utf-8")))
    words = set(re.findall(r"\w+", text))
    files = [p for p in (ROOT / folder).glob("*.py") if not p.name.startswith("__")]

    missing = [p.name for p in files if p.stem not in words and not is_entry(p)]
    lines = re.findall(r"^\w+\.py\b", text, re.M)

    assert not missing, f"{folder}/__init__.py does not name {missing}"
    assert len(lines) <= MAP_LINES


def reading_lists() -> dict[str, list[str]]:
    """Method -> files, from the table of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Read a method")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\w-]+) \| (.*) \|$", section, re.M)
    return {name: re.findall(r"`([\w./]+\.py)`", cell) for name, cell in rows if "`" in cell}


@pytest.mark.parametrize("method", MOST_FILES)
def test_a_reading_list_is_short_and_holds_all_files_of_the_method(method):
    files = reading_lists()[method]
    own = {p.parent for f in files if (p := ROOT / f).parent.parent.name == "trainers"}
    own = {p for folder in own if folder.name != "common" for p in folder.glob("[!_]*.py")}

    assert 0 < len(files) == len(set(files)) <= MOST_FILES[method]
    assert all((ROOT / file).is_file() for file in files)
    assert own <= {ROOT / file for file in files}

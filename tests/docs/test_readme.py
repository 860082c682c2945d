"""What the README and the documentation name is there; its example method runs."""

import importlib
import re
from functools import cache
from pathlib import Path

import pytest
from served import run_python

from dassl.config import get_cfg_default
from dassl.config.files import find_yaml
from dassl.config.official import find_official
from dassl.config.settings import flat
from dassl.engine import TRAINER_REGISTRY
from parse_test_res import FORMATS
from tools import compare

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("clip", "configs", "dassl", "datasets", "docs", "scripts", "tests", "tools", "trainers")
MADE = {  # what the reader is told to make
    "configs/datasets/my_birds.yaml",
    "datasets/my_birds.py",
    "configs/trainers/MyMethod/toy.yaml",
}
SOURCES = [*ROOT.glob("*.py")] + [
    path
    for folder in (*FOLDERS[:4], "scripts", "tools", "trainers", "vltune")
    for path in (ROOT / folder).rglob("*.*")
    if path.suffix in (".py", ".sh")
]
FILE_NAMES = {"LICENSE.md", *(path.name for path in ROOT.iterdir())}
MADE_UP_KEYS = ("TRAINER.MYMETHOD", "TRAINER.X", "TRAINER.THEIRMETHOD")
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "DATASETS", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HELPERS = {
    "TaskResBase",
    "VL2VAlign",
    "VL2VDistill",
    "MultiModalAdapter",
    "ADAPTER",
}  # stages, second names


def name_of(page: Path) -> str:
    """A page as tests are named after it."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_page_and_a_heading(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if "://" not in target:
            linked = page.parent / target if target else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors_of(linked), f"{target}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_file_of_the_repository_exists(page):
    words = {word.rstrip(".,:") for code in code_of(page) for word in re.split(r"[\s=\"']+", code)}
    named = {word for word in words if re.match(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]*$", word)}

    absent = [name for name in sorted(named) if not list(ROOT.glob(name)) and name not in MADE]
    assert [name for name in absent if not (find_official(name) or find_yaml(name))] == []


def code_of(page: Path) -> list[str]:
    """What a page sets in code: inline, in blocks, and indented."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    without = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [*blocks, *re.findall(r"`([^`]+)`", without), *re.findall(r"^    (.+)$", without, re.M)]


OTHERS_FLAGS = {
    "--dist",
    "--nproc",
    "--max-restarts",
}  # of pytest-xdist, torchrun (--nproc_per_node)
MADE_FLAGS = {f"--{name}" for name in (*FORMATS, *compare.LISTS)}  # made by loops


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_named_key_flag_and_variable_exists(page):
    code = "\n".join(code_of(page))
    keys = {key.rstrip(".") for key in re.findall(r"\b[A-Z]{3,}\.\w[\w.]*", code)} - FILE_NAMES
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)) - OTHERS_FLAGS - MADE_FLAGS
    variables = set(re.findall(r"(?<![.\w])(?:VLTUNE|CLIP|OMP)_[A-Z_]+\b", code))
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)

    assert [key for key in sorted(keys) if not is_key(key)] == []
    assert [flag for flag in sorted(flags) if f'"{flag}"' not in source] == []
    assert [name for name in sorted(variables) if name not in source] == []


def is_key(name: str) -> bool:
    """Whether a config has this key or section, or the page makes it up for the reader's own."""
    known = every_key()
    made_up = name.startswith(MADE_UP_KEYS)
    return made_up or name in known or any(key.startswith(f"{name}.") for key in known)


@cache
def every_key() -> set[str]:
    """Every key of the engine and of all trainers."""
    importlib.import_module("trainers")
    keys = set(flat(get_cfg_default()))
    for name in TRAINER_REGISTRY.registered_names():
        keys |= set(flat(getattr(TRAINER_REGISTRY.get(name), "default_cfg", dict)()))
    return keys


def test_every_trainer_has_a_row_and_a_paper_to_cite():
    importlib.import_module("trainers")  # registers every trainer
    names = {name for name in TRAINER_REGISTRY.registered_names() if name in shipped()}
    citations = (ROOT / "docs" / "citations.md").read_text(encoding="utf-8")

    assert [name for name in sorted(names - HELPERS) if f"`{name}`" not in README] == []
    assert [name for name in sorted(names) if f"`{name}`" not in citations] == []


def shipped() -> set[str]:
    """Trainers of the package; other tests register their own beside them."""
    return {path.name for path in (ROOT / "configs" / "trainers").iterdir()} | HELPERS


def test_the_example_method_trains_as_written(tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    words = ["--trainer", "MyMethod", "--dataset", "toy_layout", "--seed", "1"]
    words += ["--config-file", "configs/trainers/ZeroshotCLIP/toy.yaml"]
    words += ["--output-dir", str(tmp_path / "out"), "DATASET.NUM_SHOTS", "1"]
    words += ["OPTIM.MAX_EPOCH", "1", "TRAIN.NUM_VIEWS", "1"]
    program = f"{block}\nfrom train import main\nprint(main({words!r})['metrics'])\n"
    program += "from small_configs import TRAINERS\n"
    program += "print('picked up' if 'MyMethod' in TRAINERS else TRAINERS)\n"
    (tmp_path / "example.py").write_text(program, encoding="utf-8")

    done = run_python([str(tmp_path / "example.py")], tmp_path)

    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout.splitlines()[-2]
    assert done.stdout.splitlines()[-1] == "picked up"

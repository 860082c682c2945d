"""What the README and the documentation name is there; its example method runs."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dassl.engine import TRAINER_REGISTRY

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "DATASETS.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HELPERS = {
    "TaskResBase",
    "VL2VAlign",
    "VL2VDistill",
    "MultiModalAdapter",
    "ADAPTER",
}  # stages, second names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_linked_page_exists(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_script_exists(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:bash|python) ((?:scripts|tools)/[\w/]+\.(?:sh|py)|\w+\.py)", text)

    assert [name for name in named if not (ROOT / name).is_file()] == []


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
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    words = ["--trainer", "MyMethod", "--dataset", "toy_layout", "--seed", "1"]
    words += ["--config-file", "configs/trainers/ZeroshotCLIP/toy.yaml"]
    words += ["--output-dir", str(tmp_path / "out"), "DATASET.NUM_SHOTS", "1"]
    words += ["OPTIM.MAX_EPOCH", "1", "TRAIN.NUM_VIEWS", "1"]
    program = f"{block}\nfrom train import main\nprint(main({words!r})['metrics'])\n"
    (tmp_path / "example.py").write_text(program, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, str(tmp_path / "example.py")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout.splitlines()[-1]

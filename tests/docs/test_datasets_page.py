"""DATASETS.md: every message that points to it names a section that is there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from dassl.data.datasets import DATASET_REGISTRY
from dassl.modeling.networks import SHORT_NAMES
from trainers.amu.auxiliary import MOCO_URL
from trainers.common.text.descriptions import CUPL_FILES, FOLDERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "DATASETS.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^#{2,3} (.+)$", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL), re.M)
PLACEHOLDER = "\0"  # an expression in an f-string
WHOLE_PAGE = {  # what is about many datasets, or about none yet
    "datasets/files.py": 1,
    "tools/check_data.py": 2,
    "tools/data_sources/arrange.py": 1,
    "tools/get_data.py": 2,
    "tools/protocol.py": 1,
    "tools/wheel.py": 1,  # the file itself
}
FOLDERS_OF_CODE = ("clip", "dassl", "datasets", "trainers", "tools")


def texts_of(path):
    """Every string of a module, f-strings with a placeholder per expression; no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
             for part in node.values}  # fmt: skip
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (getattr(part, "value", PLACEHOLDER) for part in node.values)
            yield "".join(part if isinstance(part, str) else PLACEHOLDER for part in parts)
        elif isinstance(node, ast.Constant) and id(node) not in inner | docstrings:
            yield str(node.value)


def pointers():
    """(file, text) of every message of the package that mentions the page."""
    for folder in FOLDERS_OF_CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for text in texts_of(path):
                if "DATASETS.md" in text:
                    yield path.relative_to(ROOT).as_posix(), text


def test_every_message_names_a_section_that_exists():
    without = dict.fromkeys(WHOLE_PAGE, 0)
    for file, text in pointers():
        named = re.search(r"DATASETS\.md, section ([^.:]+)", text)
        if named is None:
            without[file] = without.get(file, 0) + 1
        elif PLACEHOLDER not in named.group(1):
            assert any(named.group(1).startswith(section) for section in SECTIONS), (file, text)

    assert without == WHOLE_PAGE


def test_the_section_of_every_dataset_exists():
    importlib.import_module("datasets")
    shipped = [DATASET_REGISTRY.get(name) for name in DATASET_REGISTRY.registered_names()]
    shipped = [cls for cls in shipped if cls.__module__.startswith("datasets.")]

    assert len(shipped) > 20
    assert [cls.__name__ for cls in shipped if cls.section not in SECTIONS] == []


@pytest.mark.parametrize("name", sorted({*CUPL_FILES.values(), *FOLDERS}))
def test_every_cupl_file_and_folder_is_on_the_page(name):
    assert name in PAGE


def test_the_sources_of_weights_are_those_of_the_code():
    from torchvision.models import get_model_weights

    assert MOCO_URL.format(epochs=1000) in PAGE
    assert get_model_weights("resnet50")["IMAGENET1K_V1"].url in PAGE
    for short, name in SHORT_NAMES.items():
        assert f"| `{short}` |" in PAGE
        if name.startswith("timm:"):
            assert f"https://huggingface.co/timm/{name.removeprefix('timm:')}`" in PAGE

"""A wheel installs below `vltune` alone and works beside packages that are called as ours."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tools.wheel import IMPORTERS, MODULES, PACKAGES, PAGES, below_vltune

ROOT = Path(__file__).resolve().parents[2]
NAMES = (*PACKAGES, "vltune")
STAND_INS = {"datasets": "Hugging Face", "clip": "OpenAI"}  # packages of others, and whose
SCRIPT = """
import json, sys
import clip, datasets

from vltune.cli import main, name_commands
from vltune.dassl.terminal import as_typed

status = main(sys.argv[1:])
name_commands()  # of messages
page = as_typed("DATASETS.md")
ours = [n for n in ("clip", "dassl", "datasets", "trainers", "tools", "train") if n in sys.modules]
print(json.dumps({"status": status, "top": ours, "whose": [datasets.WHOSE, clip.WHOSE],
                  "page": page}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources without network."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in (*NAMES, "configs", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", *PAGES, *(f"{name}.py" for name in MODULES)):
        shutil.copy(ROOT / name, folder)
    stale = folder / "build" / "lib" / "clip"  # what an earlier version of the package has built
    stale.mkdir(parents=True)
    (stale / "__init__.py").touch()
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel's content, and with Hugging Face's and OpenAI's packages."""
    target = tmp_path_factory.mktemp("site_packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    for name, whose in STAND_INS.items():
        (target / name).mkdir()
        (target / name / "__init__.py").write_text(f"WHOSE = {whose!r}\n", encoding="utf-8")
    return target


def test_a_wheel_holds_nothing_outside_vltune(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        top_level = archive.read("vltune-0.2.0.dist-info/top_level.txt")

    assert {name.split("/")[0] for name in names} == {"vltune", "vltune-0.2.0.dist-info"}
    assert top_level.split() == [b"vltune"]


def test_a_wheel_holds_every_module_config_and_data_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    suffixes = (".py", ".yaml", ".json", ".pt", ".typed", ".md")
    tracked = [
        path
        for name in (*PACKAGES, "configs", "docs")
        for path in (ROOT / name).rglob("*")
        if path.suffix in suffixes and "mutation" not in path.parts
    ]
    assert len(tracked) > 300
    for path in tracked:
        assert f"vltune/{path.relative_to(ROOT).as_posix()}" in names
    assert {"vltune/py.typed", "vltune/train.py", "vltune/predict.py"} <= names
    assert {f"vltune/{page}" for page in PAGES} <= names


def test_a_wheel_trains_beside_packages_of_the_same_names(installed, tmp_path):
    for number in range(8):
        for name, colour in (("red", (200, number, 0)), ("blue", (0, number, 200))):
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), colour).save(tmp_path / "images" / name / f"{number}.png")
    words = "train --trainer ZeroshotCLIP --dataset class_folder --root images --backbone toy/ViT"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "script.py", *words.split(), "--output-dir", "run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert Path(said.pop("page")) == installed.resolve() / "vltune" / "DATASETS.md"
    assert said == {"status": 0, "top": ["clip", "datasets"], "whose": ["Hugging Face", "OpenAI"]}
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["finished"] and results["trainer"] == "ZeroshotCLIP"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import clip", "from vltune import clip"),
        ("import clip as c, os", "from vltune import clip as c; import os"),
        ("import dassl.utils", "import vltune.dassl.utils; from vltune import dassl"),
        ("import tools.protocol as p", "import vltune.tools.protocol as p"),
        ("from datasets import toy_set", "from vltune.datasets import toy_set"),
        (
            "from trainers.coop import (\n    CoOp,\n)",
            "from vltune.trainers.coop import (\n    CoOp,\n)",
        ),
        ('x = "é"; import_module("clip.model")', 'x = "é"; import_module("vltune.clip.model")'),
        ('import_module(f"tools.{name}")', 'import_module(f"vltune.tools.{name}")'),
        ("sys.path.insert(0, str(Path(__file__).parents[1]))", "pass"),
        ('"Run python tools/check_data.py X"', '"Run vltune check-data X"'),
        ("# python train.py --seed 1", "# vltune train --seed 1"),
        ("# python tools/toy_world/show.py", "# python -m vltune.tools.toy_world.show"),
    ],
)
def test_imports_of_our_names_are_rewritten(source, expected):
    assert below_vltune(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "from .clip import x",
        "import clipboard, datasets2",
        "from vltune.clip import model",
        'name = "dassl.optim.radam"',  # of a class in a file that another program has written
        'import_module("clipboard")',
        'logging.getLogger("train")',
    ],
)
def test_other_names_stay(source):
    assert below_vltune(source) == source


def test_names_of_our_packages_are_given_to_imports_literally():
    # below_vltune cannot see what a variable holds; these take names that are complete, or a user's
    takes_variables = {
        "dassl/lazy.py",
        "dassl/utils/plugins.py",
        "trainers/common/teachers/build.py",
        "tools/campaign.py",  # packages of others
        "tools/fuzz.py",  # the same
        "tools/protocols/executors.py",  # the same
        "train.py",
        "vltune/cli.py",
    }
    found = set()
    for path in (*ROOT.glob("*.py"), *(p for n in NAMES for p in (ROOT / n).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in IMPORTERS:
                begin = ast.unparse(node.args[0])
                if not begin.startswith(("'", "f'{__name__}", "f'tools.")):
                    found.add(path.relative_to(ROOT).as_posix())
    assert found <= takes_variables

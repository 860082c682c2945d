"""What setup.py builds: a wheel in which everything lies below the name `vltune`.

In a clone the packages are `clip`, `dassl`, `datasets`, `trainers` and `tools`, beside `train.py`;
CoOp users know those names. In site-packages they would overwrite Hugging Face `datasets` and
OpenAI `clip`. A wheel therefore holds `vltune/clip`, `vltune/train.py`, ..., and every import of
one of these names is rewritten to name `vltune` first. An editable install keeps the names of the
clone.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import Distribution, find_packages
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

from vltune.cli import COMMANDS

NAME = "vltune"
PACKAGES = ("clip", "dassl", "datasets", "trainers", "tools")
MODULES = ("train", "predict", "parse_test_res")
PAGES = ("README.md", "DATASETS.md", "CONTRIBUTING.md", "CHANGELOG.md")  # beside docs/, which links
OURS = re.compile(rf"(?:{'|'.join((*PACKAGES, *MODULES))})(?=\.|$)")
SCRIPT = re.compile(rf"\bpython ({'|'.join(MODULES)}|tools/[a-z_/]+)\.py\b")
IMPORTERS = ("import_module", "find_spec", "run_module")  # functions that take a module's name
Edit = tuple[int, int, str]  # bytes from, to, and what comes in their place


def packages_in_clone() -> list[str]:
    """Names of all packages, as an editable install has them."""
    return find_packages(include=[NAME, *PACKAGES, *(f"{name}.*" for name in PACKAGES)])


def packages_in_wheel() -> list[str]:
    """The same below `vltune`, and configs and pages, which are data."""
    below = [f"{NAME}.{name}" for name in packages_in_clone() if name != NAME]
    return [NAME, *below, f"{NAME}.configs", f"{NAME}.docs"]


def folders_in_wheel() -> dict[str, str]:
    """Package -> folder of the clone, where the two differ."""
    return {f"{NAME}.{name}": name for name in (*PACKAGES, "configs", "docs")}


def below_vltune(source: str) -> str:
    """A module's source with its imports of our names as the wheel has them.

    Rewritten are import statements and literal names given to `import_module`, `find_spec` and
    `run_module`; a statement that puts the clone on `sys.path` becomes `pass`. Texts that say
    `python tools/check_data.py` say `vltune check-data`. Other strings stay.
    """
    content = source.encode()
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for first, last, text in sorted(_edits(ast.parse(source), content, starts), reverse=True):
        content = content[:first] + text.encode() + content[last:]
    return SCRIPT.sub(_command, content.decode())


def _command(script: re.Match[str]) -> str:
    """How a script of the clone is started where a wheel is installed."""
    module = script[1].replace("/", ".")
    names = {command.module: name for name, command in COMMANDS.items()}
    return f"vltune {names[module]}" if module in names else f"python -m {NAME}.{module}"


def _edits(tree: ast.Module, content: bytes, starts: list[int]) -> Iterator[Edit]:
    for node in ast.walk(tree):
        if not isinstance(node, (ast.stmt, ast.expr)):
            continue
        assert node.end_lineno is not None and node.end_col_offset is not None
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        if isinstance(node, ast.Import) and any(OURS.match(alias.name) for alias in node.names):
            yield first, last, "; ".join(map(_import, node.names))
        elif isinstance(node, ast.ImportFrom) and not node.level and OURS.match(node.module or ""):
            place = content.index((node.module or "").encode(), first)
            yield place, place, f"{NAME}."
        elif isinstance(node, ast.Expr) and _extends_path(node.value):
            yield first, last, "pass"
        elif isinstance(node, ast.Call) and _called(node) in IMPORTERS and node.args:
            name = node.args[0]
            begin = starts[name.lineno - 1] + name.col_offset
            opening = re.match(rb"f?[\"']+", content[begin:])  # of a plain or an f-string
            if opening and OURS.match(content[begin + opening.end() :].decode().split('"')[0]):
                yield begin + opening.end(), begin + opening.end(), f"{NAME}."


def _import(alias: ast.alias) -> str:
    """`import a.b as c` for one of the names of an import statement."""
    renamed = f" as {alias.asname}" if alias.asname else ""
    if not OURS.match(alias.name):
        return f"import {alias.name}{renamed}"
    top, _, rest = alias.name.partition(".")
    if not rest:
        return f"from {NAME} import {top}{renamed}"
    if renamed:
        return f"import {NAME}.{alias.name}{renamed}"
    return f"import {NAME}.{alias.name}; from {NAME} import {top}"


def _called(call: ast.Call) -> str:
    function = call.func
    return getattr(function, "attr", getattr(function, "id", ""))


def _extends_path(value: ast.expr) -> bool:
    return ast.unparse(value).startswith("sys.path.insert(0, str(Path(__file__)")


class BuildBelowVltune(build_py):
    """Builds the packages of the wheel from the folders of the clone."""

    def run(self) -> None:
        """Build from scratch: what an earlier version left there would get into the wheel."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for page in () if self.editable_mode else PAGES:
            shutil.copy(page, Path(self.build_lib, NAME))

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Modules of a package: `vltune` has the scripts of the clone's root, too."""
        found = super().find_package_modules(package, package_dir)
        scripts = MODULES if package == NAME else ()
        return found + [(package, name, f"{name}.py") for name in scripts]

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copy a module with its imports rewritten."""
        copied, is_new = super().build_module(module, module_file, package)
        source = Path(module_file).read_text(encoding="utf-8")
        Path(copied).write_text(below_vltune(source), encoding="utf-8")
        return copied, is_new


class EditableAsCloned(editable_wheel):
    """Makes the names of the clone importable, and `vltune`."""

    def finalize_options(self) -> None:
        """Swap the packages of the wheel for those of the clone."""
        distribution: Distribution = self.distribution
        distribution.packages = packages_in_clone()
        distribution.py_modules = list(MODULES)
        distribution.package_dir = {}
        super().finalize_options()

"""Every golden case `$GOLDEN_DIR/<method>/<case>` (default tests/golden) against our package.

The folder of the method names the checker, tests/golden_checks/<method>.py. Nothing is skipped:
a case without a checker or without case.json fails, and one with an array that the checker never
looks at, unless case.json lists it under `inputs`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from golden_checks.common import Case

GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")


def folders(root: Path) -> list[Path]:
    """The visible folders in `root`, links to folders included, sorted."""
    if not root.is_dir():
        return []
    hidden = (".", "__")
    found = (path for path in root.iterdir() if not path.name.startswith(hidden))
    return sorted(path for path in found if path.is_dir())


def find_cases(root: Path) -> list[Path]:
    """All `<method>/<case>` folders below `root`."""
    return [case for method in folders(root) for case in folders(method)]


def run_checker(case: Path) -> None:
    """Run the checker that the folder above names; fail without one, or if it left arrays out."""
    module = f"golden_checks.{case.parent.name}"
    if not (case / "case.json").is_file():
        pytest.fail(f"{case} holds no case.json")
    if importlib.util.find_spec(module) is None:
        pytest.fail(f"no checker for {case}: tests/{module.replace('.', '/')}.py is missing")
    opened = Case(case)
    importlib.import_module(module).check(opened)
    if unread := opened.unread():
        pytest.fail(f"tests/{module.replace('.', '/')}.py never read {', '.join(unread)} of {case}")


CASES = find_cases(GOLDEN_DIR)


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_golden(case: Path):
    run_checker(case)


@pytest.mark.golden
def test_the_golden_folder_holds_cases():
    assert CASES, f"no <method>/<case>/case.json below GOLDEN_DIR {GOLDEN_DIR.resolve()}"


def test_a_case_without_a_checker_fails(tmp_path):
    case = tmp_path / "no_such_method" / "one"
    case.mkdir(parents=True)
    (case / "case.json").write_text("{}")

    with pytest.raises(pytest.fail.Exception, match="no checker"):
        run_checker(case)


def zero_shot_case(folder: Path, **more: np.ndarray) -> Path:
    """A copy of a zero-shot case with further arrays."""
    source, case = (
        Path(__file__).parent / "golden/zeroshot/single_vit_caltech",
        folder / "zeroshot/a",
    )
    case.mkdir(parents=True)
    (case / "case.json").write_text((source / "case.json").read_text())
    with np.load(source / "arrays.npz") as stored:
        np.savez(case / "arrays.npz", **{**stored, **more})
    return case


def test_an_array_that_the_checker_never_reads_fails(tmp_path):
    with pytest.raises(pytest.fail.Exception, match=r"zeroshot.py never read margins of "):
        run_checker(zero_shot_case(tmp_path, margins=np.zeros(8)))


def test_an_input_that_the_checker_does_not_need_may_stay_unread(tmp_path):
    case = zero_shot_case(tmp_path, **{"draw.env0_in": np.zeros(8)})
    spec = json.loads((case / "case.json").read_text())
    spec["inputs"]["draw.env<e>_<in|out>"] = "random numbers"
    (case / "case.json").write_text(json.dumps(spec))

    run_checker(case)


def test_an_array_that_a_case_neither_holds_nor_promises_is_not_compared(tmp_path):
    (tmp_path / "case.json").write_text('{"rtol": 0, "atol": 0, "expected": {"loss": ""}}')

    Case(tmp_path).compare("logits", 1.0)
    with pytest.raises(KeyError, match="loss"):
        Case(tmp_path).compare("loss", 1.0)


def test_links_to_case_folders_are_followed(tmp_path):
    case = tmp_path / "elsewhere" / "one"
    case.mkdir(parents=True)
    root = tmp_path / "golden"
    root.mkdir()
    (root / "clip").symlink_to(tmp_path / "elsewhere", target_is_directory=True)

    assert find_cases(root) == [root / "clip" / "one"]


def test_a_difference_beyond_the_longest_matching_tolerance_fails(tmp_path):
    (tmp_path / "case.json").write_text(
        '{"rtol": 0, "atol": 0, "tolerances": {"a": {"rtol": 0, "atol": 1.0},'
        ' "ab": {"rtol": 0, "atol": 0.1}}}'
    )
    case = Case(tmp_path)

    case.compare("ax", 0.5, expected=0.0)
    with pytest.raises(AssertionError, match="largest difference 0.5"):
        case.compare("abx", 0.5, expected=0.0)
    with pytest.raises(AssertionError, match="shape"):
        case.compare("ax", [0.0], expected=0.0)
    with pytest.raises(AssertionError, match="1 of 2 differ"):
        case.compare("ax", [1, 2], expected=[1, 3])

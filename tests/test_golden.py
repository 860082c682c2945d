"""Every golden case `$GOLDEN_DIR/<method>/<case>` (default tests/golden) against our package.

The folder of the method names the checker, tests/golden_checks/<method>.py. A case is never
skipped: one without a checker, or without case.json, fails.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

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
    """Run the checker that the folder above the case names; fail if there is none."""
    module = f"golden_checks.{case.parent.name}"
    if not (case / "case.json").is_file():
        pytest.fail(f"{case} holds no case.json")
    if importlib.util.find_spec(module) is None:
        pytest.fail(f"no checker for {case}: tests/{module.replace('.', '/')}.py is missing")
    importlib.import_module(module).check(Case(case))


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

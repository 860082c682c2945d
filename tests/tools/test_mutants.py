"""The tool that plants faults, and that its faults still fit this tree."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.mutants import check_all, main
from tools.mutation.faults import StaleFault, chosen, read_faults
from tools.mutation.runs import pytest_arguments

ROOT = Path(__file__).resolve().parents[2]
FAULTS = """
tests:
  sums: [tests/test_sums.py -k add]
faults:
  sums.py:
    - {name: adds_too_much, old: return a + b, new: return a + b + 1, tests: sums}
    - {name: halves_to_a_third, old: return a / 2, new: return a / 3, tests: sums}
"""
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="the tool asks git for files")


@pytest.fixture
def project(tmp_path):
    """A repository of one module, one test, and two faults of which the test notices one."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "sums.py").write_text(
        "def add(a, b):\n    return a + b\n\n\ndef half(a):\n    return a / 2\n"
    )
    (tmp_path / "tests" / "test_sums.py").write_text(
        "from sums import add, half\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
        "\n\ndef test_half():\n    assert half(4) == 2\n"
    )
    (tmp_path / "faults.yaml").write_text(FAULTS)
    (tmp_path / ".gitignore").write_text("/output/\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def mutants(project, *words):
    """Exit status of the tool on the small project."""
    paths = {"--root": ".", "--faults": "faults.yaml", "--results": "output/mutants.json"}
    given = [word for flag, name in paths.items() for word in (flag, str(project / name))]
    return main([*given, *words])


def test_every_fault_fits_this_tree():
    check_all(read_faults(), ROOT)


@needs_git
def test_a_fault_that_no_test_notices_is_told_and_ends_with_one(project, capsys):
    source = (project / "sums.py").read_text()

    status = mutants(project)

    printed = capsys.readouterr().out
    assert status == 1
    assert "adds_too_much: noticed by tests/test_sums.py::test_add" in printed
    assert "halves_to_a_third: SURVIVED" in printed
    assert "1 of 2 faults were noticed." in printed
    assert "return a / 2\n  -> return a / 3\n  by: tests/test_sums.py -k add" in printed
    assert (project / "sums.py").read_text() == source


@needs_git
def test_an_outcome_is_kept_until_the_tree_changes(project, capsys):
    mutants(project, "--only", "adds_*")
    mutants(project, "--only", "adds_*")
    assert "(found before)" in capsys.readouterr().out
    (project / "tests" / "test_sums.py").write_text("def test_add():\n    pass\n")

    status = mutants(project, "--only", "adds_*")

    assert status == 1
    assert "adds_too_much: SURVIVED" in capsys.readouterr().out


@needs_git
def test_in_a_changed_tree_the_test_that_noticed_before_is_tried_first(project, capsys):
    mutants(project, "--only", "adds_*")
    tests = project / "tests" / "test_sums.py"
    slow = "def test_add_slowly():\n    import time\n    time.sleep(60)\n"
    tests.write_text(f"{slow}\n\n{tests.read_text()}")
    capsys.readouterr()

    status = mutants(project, "--only", "adds_*", "--limit", "50")

    assert status == 0
    assert "noticed by tests/test_sums.py::test_add, " in capsys.readouterr().out


@needs_git
def test_a_test_that_noticed_before_and_is_gone_is_not_asked_for(project, capsys):
    mutants(project, "--only", "adds_*")
    tests = project / "tests" / "test_sums.py"
    tests.write_text(tests.read_text().replace("def test_add", "def test_add_two"))

    status = mutants(project, "--only", "adds_*")

    assert status == 0
    assert "noticed by tests/test_sums.py::test_add_two, " in capsys.readouterr().out


@needs_git
def test_the_whole_suite_notices_what_the_own_tests_do_not(project, capsys):
    status = mutants(project, "--all-tests", "--only", "halves_*")

    assert status == 0
    assert "halves_to_a_third: noticed by tests/test_sums.py::test_half" in capsys.readouterr().out


@needs_git
def test_tests_that_fail_without_a_fault_prove_nothing(project, capsys):
    (project / "tests" / "test_sums.py").write_text("def test_add():\n    assert False\n")

    status = mutants(project, "--only", "adds_*")

    assert status == 1
    assert "NOT RUN (without a fault: noticed, tests/test_sums.py::test_add)" in (
        capsys.readouterr().out
    )


@needs_git
def test_a_run_beyond_the_limit_is_neither_noticed_nor_survived(project, capsys):
    status = mutants(project, "--only", "adds_*", "--limit", "0.01")

    assert status == 1
    assert "timed out" in capsys.readouterr().out
    assert not (project / "output").exists()


def test_a_fault_whose_text_is_gone_is_called_stale(project, capsys):
    (project / "sums.py").write_text("def add(a, b):\n    return sum((a, b))\n")

    status = mutants(project)

    assert status == 2
    error = capsys.readouterr().err
    assert "2 of 2 faults are stale." in error
    assert "adds_too_much: 'return a + b' is found 0 times in sums.py" in error


def test_a_fault_that_is_no_python_is_called_stale(project):
    (project / "faults.yaml").write_text(FAULTS.replace("return a / 3", "return a /"))

    with pytest.raises(StaleFault, match="halves_to_a_third: sums.py is not Python"):
        check_all(read_faults(project / "faults.yaml"), project)


def test_a_set_of_tests_that_is_not_there_is_named(project):
    (project / "faults.yaml").write_text(FAULTS.replace("tests: sums}", "tests: sum}"))

    with pytest.raises(ValueError, match="no set of tests is called 'sum'. Known: sums"):
        read_faults(project / "faults.yaml")


def test_a_name_that_no_fault_has_is_refused():
    with pytest.raises(ValueError, match="--only nothing: no fault has this name"):
        chosen(read_faults(), ["nothing"])


def test_words_of_several_files_stay_with_their_file():
    tests = ["tests/test_a.py", "tests/test_b.py -k '[x] or y'"]

    assert pytest_arguments(tests[:1]) == ["tests/test_a.py"]
    assert pytest_arguments(tests) == [
        "tests/test_a.py",
        "tests/test_b.py",
        "-k",
        "test_a.py or (test_b.py and ([x] or y))",
    ]

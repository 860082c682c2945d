"""What a command line costs before it is known to be sound: no import of anything slow."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dassl.engine.command import cli

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    *("train.py", "predict.py", "parse_test_res.py", "tools/protocols/preflight.py"),
    *(
        path.relative_to(ROOT).as_posix()
        for path in sorted(ROOT.glob("tools/*.py"))
        if "\n    as_script(main" in path.read_text(encoding="utf-8")
    ),
]
SLOW = {"torch", "torchvision", "numpy", "PIL", "matplotlib", "scipy", "sklearn", "open_clip"}
LINES = {  # command line -> what its answer holds
    "train --help": "--trainer TRAINER",
    "predict --help": "--model-dir",
    "tools.protocol --help": "--keep-going",
    "train --list trainers": "TaskRes",
    "train --trainr TaskRes": "Unknown flag --trainr. Did you mean --trainer",
    "train --trainer TaskRess": "Did you mean",
    "train --trainer TaskRes --dataset toy_object": "Did you mean",
    "train --trainer TaskRes --recipe rn5": "TaskRes has no recipe",
}
PROGRAM = """
import contextlib, importlib, io, json, sys
answers = {}
for line in json.loads(sys.argv[1]):
    module, *words = line.split()
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            importlib.import_module(module).main(words)
        except (SystemExit, ValueError, FileNotFoundError) as err:
            print(err)
    answers[line] = [shown.getvalue(), sorted(sys.modules)]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers():
    """Command line -> its answer, and the modules that are loaded then; all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(list(LINES))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", LINES)
def test_help_and_slips_are_answered_before_anything_slow_is_imported(line, answers):
    text, loaded = answers[line]

    assert LINES[line] in text
    assert SLOW & set(loaded) == set()


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1), (None, 6)]
)
def test_a_container_s_share_of_time_bounds_the_cores(quota, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(cli, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")

    assert cli.available_cores() == cores


@pytest.mark.parametrize("path", PROGRAMS)
def test_a_program_stands_by_for_signals_before_it_imports_anything_else(path):
    before = []
    for statement in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and "stand_by()" in ast.unparse(statement):
            break
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            module = getattr(statement, "module", None)
            before += [module] if module else [alias.name for alias in statement.names]
    else:
        pytest.fail("stand_by() is missing; tools/cache.py shows where it belongs")

    assert set(before) <= {"__future__", "contextlib", "pathlib", "sys"}

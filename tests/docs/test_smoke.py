"""The README's commands, end to end on the toy world, cut down to seconds."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from served import run_python

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.smoke,
    pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts need bash"),
]
SHORT = ("OPTIM.MAX_EPOCH", "2", "TRAIN.NUM_VIEWS", "1", "DATALOADER.TEST.BATCH_SIZE", "1000")


def run(*command: str, output: Path, seeds: str = "1") -> str:
    """Run a command in the repository; returns what it printed, and fails with it."""
    environment = {**os.environ, "SEEDS": seeds, "OUTPUT": str(output), "PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """The output folder after the quick start with two seeds and one shot."""
    folder = tmp_path_factory.mktemp("output")
    script = ("bash", "scripts/taskres/main.sh", "toy_layout", "1")
    (folder / "printed.txt").write_text(
        run(*script, *SHORT, output=folder, seeds="1 2"), encoding="utf-8"
    )
    return folder


def test_the_quick_start_prints_zero_shot_and_tuned_accuracy(output):
    printed = (output / "printed.txt").read_text(encoding="utf-8")

    assert "ZeroshotCLIP" in printed
    assert "TaskRes" in printed
    assert "±" in printed
    assert "predict.py" in printed


def test_every_run_leaves_its_results(output):
    runs = [json.loads(path.read_text()) for path in output.rglob("results.json")]

    assert sorted(r["trainer"] for r in runs) == ["TaskRes", "TaskRes", "ZeroshotCLIP"]
    assert all(r["finished"] and r["selection"] == "last" for r in runs)


def next_command(output: Path, what: str) -> list[str]:
    """The command that the quick start printed for something, as words."""
    printed = (output / "printed.txt").read_text(encoding="utf-8")
    words = shlex.split(re.search(rf"^  {what} +(.*)$", printed, re.MULTILINE).group(1))
    return [sys.executable if word == "python" else word for word in words]


def test_the_printed_command_shows_the_table_again(output):
    printed = run(*next_command(output, "the table again"), output=output)

    assert "TaskRes" in printed
    assert "±" in printed


def test_the_same_command_again_skips_what_is_finished(output):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("model.pth.tar-*")}

    run("bash", "scripts/taskres/main.sh", "toy_layout", "1", *SHORT, output=output, seeds="1 2")

    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_printed_command_classifies_an_image_of_ones_own(output, tmp_path):
    image = next(Path(os.environ["VLTUNE_CACHE"]).rglob("*.png"))
    shutil.copy(image, tmp_path / "mine.png")
    command = next_command(output, "your own images")

    done = run_python([*command[1:-1], str(tmp_path / "mine.png")], tmp_path)

    assert done.returncode == 0, done.stderr
    assert (command[0], command[-1]) == (sys.executable, "IMAGE_OR_FOLDER")
    assert "mine.png" in done.stdout
    assert "%" in done.stdout

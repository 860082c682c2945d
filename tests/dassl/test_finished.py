"""A command that is known to mean a finished run gets its answer from a note, without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from result_files import finished_run

from dassl.config import get_cfg_default
from dassl.engine.command import finished
from dassl.engine.command.cli import make_parser

ROOT = Path(finished.REPOSITORY)


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A finished run that a command of `arguments` made, noted as such."""
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.chdir(tmp_path)
    more = {"selection": "last", "labelled_images": {}}
    finished_run(tmp_path / "seed1", seed=1, accuracy=60.0, **more)
    (tmp_path / "seed1" / "config.yaml").write_text("SEED: 1\n")
    note_of(tmp_path / "seed1")
    return tmp_path / "seed1"


def arguments(*more):
    return make_parser().parse_args(["--trainer", "TaskRes", "--output-dir", "seed1", *more])


def note_of(folder, *more, dataset="Toy"):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR, cfg.DATASET.NAME = str(folder), dataset
    finished.remember(arguments(*more), cfg)


def test_the_same_command_is_answered_with_the_results(run_folder):
    folder, results = finished.recall(arguments())

    assert folder == run_folder and results["metrics"]["test"]["accuracy"] == 60.0


def test_a_finished_run_is_one_where_its_note_cannot_be_kept(run_folder, monkeypatch, tmp_path):
    (tmp_path / "closed").touch()
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "closed"))

    note_of(run_folder)

    assert finished.recall(arguments()) is None


@pytest.mark.parametrize("words", [["--seed", "2"], ["OPTIM.LR", "1.0"], ["--precision", "tf32"]])
def test_another_command_is_not_answered(run_folder, words):
    assert finished.recall(arguments(*words)) is None


def test_results_of_an_interrupted_run_are_no_answer(run_folder):
    results = json.loads((run_folder / "results.json").read_text())
    (run_folder / "results.json").write_text(json.dumps(results | {"finished": False}))

    assert finished.recall(arguments()) is None


@pytest.mark.parametrize("name", ["results.json", "config.yaml"])
def test_a_folder_that_lost_a_file_is_no_answer(run_folder, name):
    (run_folder / name).unlink()

    assert finished.recall(arguments()) is None


def test_a_folder_with_another_config_is_no_answer(run_folder):
    (run_folder / "config.yaml").write_text("SEED: 2\n")

    assert finished.recall(arguments()) is None


def test_a_changed_program_finds_out_by_itself(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(finished, "REPOSITORY", tmp_path / "other")
    finished._program.cache_clear()

    try:
        assert finished.recall(arguments()) is None
    finally:
        finished._program.cache_clear()


def test_a_changed_config_file_is_read_again(run_folder, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("OPTIM: {LR: 0.1}\n")
    words = ("--config-file", str(file))
    note_of(run_folder, *words)
    assert finished.recall(arguments(*words)) is not None

    file.write_text("OPTIM: {LR: 0.25}\n")

    assert finished.recall(arguments(*words)) is None


def test_a_changed_model_is_evaluated_again(run_folder, tmp_path):
    model = tmp_path / "trained" / "prompt_learner" / "model.pth.tar-2"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"weights")
    words = ("--eval-only", "--model-dir", "trained")
    path = run_folder / "results.json"
    results = json.loads(path.read_text())
    evaluated = finished.describe_evaluated(arguments(*words))
    path.write_text(json.dumps(results | {"evaluated": evaluated}))
    note_of(run_folder, *words)
    assert finished.recall(arguments(*words)) is not None

    model.write_bytes(b"other weights")

    assert finished.recall(arguments(*words)) is None


def test_nothing_is_noted_of_images_in_a_folder(run_folder):
    note_of(run_folder, "--seed", "3", dataset="OwnImages")

    assert finished.recall(arguments("--seed", "3")) is None


def test_the_answer_needs_no_torch(run_folder):
    code = (
        "import sys, train\n"
        "results = train.main(sys.argv[1:])\n"
        "print(results['metrics']['test']['accuracy'], 'torch' in sys.modules)\n"
    )
    words = ["--trainer", "TaskRes", "--output-dir", "seed1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip

    assert done.stdout.split() == ["60.0", "False"]

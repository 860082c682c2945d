"""The command `vltune`: what it answers by itself, and how it starts the programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vltune
from dassl import terminal
from dassl.utils.interrupts import MACHINE
from train import command
from vltune.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


def test_version_and_help_need_neither_torch_nor_the_engine():
    code = (
        "import sys; from vltune.cli import main; main(['--version']); main(['--help']); "
        "assert not {'torch', 'dassl', 'numpy'} & set(sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"vltune {vltune.__version__}\n")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_an_unknown_command_is_answered_with_the_close_one(capsys):
    assert main(["comapre"]) == 2
    assert 'unknown command "comapre". Did you mean compare? Known: train,' in (
        capsys.readouterr().err
    )


def test_a_missing_program_is_said_to_be_missing(monkeypatch, caplog):
    monkeypatch.setitem(COMMANDS, "report", COMMANDS["report"]._replace(module="tools.no_such"))

    assert main(["report"]) == 2

    assert "vltune report needs the module tools.no_such, which this version" in caplog.text


def test_help_of_a_command_names_it_as_it_was_called(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])

    assert capsys.readouterr().out.startswith("usage: vltune train [-h]")


def test_help_and_mistakes_name_the_command_that_was_typed(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    shown = capsys.readouterr().out
    main(["protocol", "fewshot", "--trainer", "CoOp", "--shots", "0"])

    assert "vltune predict --model-dir" in shown and "predict.py" not in shown
    assert "Training on all images: vltune train." in capsys.readouterr().err
    assert terminal.COMMANDS == {}


def test_places_in_the_source_keep_their_file_names(monkeypatch):
    monkeypatch.setattr(terminal, "COMMANDS", {"tools/listing.py": "vltune list"})

    shown = terminal.as_typed("tools/listing.py recipes (raised at tools/listing.py:45)")

    assert shown == "vltune list recipes (raised at tools/listing.py:45)"


@pytest.mark.parametrize("words", [["train.py", "--list", "trainers"], ["tools/cache.py", "list"]])
def test_output_that_nobody_reads_ends_a_program_silently(words):
    with subprocess.Popen(
        [sys.executable, "-u", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (terminal.READER_HAS_LEFT, b"")


def test_pages_are_named_by_their_place(tmp_path, capsys):
    main(["check-data", "oxford_pets", "--root", str(tmp_path)])

    assert f"{ROOT / 'DATASETS.md'}, section OxfordPets" in capsys.readouterr().out


def test_wrong_input_is_one_line_and_an_exit_status(caplog):
    assert main(["list", "trainers", "MMB"]) == 2

    assert 'Unknown trainer "MMB". Did you mean "MMA"?' in caplog.text


def test_a_run_without_enough_memory_is_told_what_needs_less(caplog):
    def fail(argv):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    assert command([], fail) == MACHINE

    assert "TRAIN.TEXT_CHUNK 50 encodes 50 at a time" in caplog.text


def test_list_prints_the_keys_of_a_trainer(capsys):
    assert main(["list", "trainers", "MMA"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("MMA: ")
    assert any(line.startswith("TRAINER.MMADAPTER.ADAPTER_START") for line in lines)

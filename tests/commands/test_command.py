"""The command `vltune`: what it answers by itself, and how it starts the programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vltune
from dassl.flags import FlagParser
from dassl.utils.interrupts import MACHINE
from train import command
from vltune.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_program_name(monkeypatch):
    """The name of the program in help texts is that of the test session again afterwards."""
    monkeypatch.setattr(FlagParser, "program", "")


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

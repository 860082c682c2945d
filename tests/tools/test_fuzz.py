"""Spoiled files: every reader reads them or answers with a sentence that names the file."""

import pytest

from tools import fuzz

TARGETS = fuzz.targets()
ALL = "split|yaml|config|results|tables|log|metrics|checkpoint|weights|draw|names.txt|cupl"


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_files_are_read_or_answered(name):
    found = fuzz.outcomes(TARGETS[name], 25, f"suite/{name}")

    assert set(found) <= {"read", "answered"} and len(found) == 25, found


def test_the_inputs_of_faults_are_kept_and_time_ends_a_search(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "find_spec", lambda name: None)
    monkeypatch.setattr(fuzz, "targets", lambda: {"bad": _reads(lambda path: [][1])})

    assert fuzz.main(["bad", "--seconds", "0.2", "--keep", str(tmp_path)]) == 1

    said = capsys.readouterr().out
    assert "bad 0: traceback: IndexError" in said and "Inputs were random" in said
    assert 0 < len(list((tmp_path / "bad").iterdir())) <= fuzz.MOST_KEPT


def test_an_unknown_reader_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        fuzz.main(["jaml"])

    assert "there is no reader jaml. Known: split, yaml, " in capsys.readouterr().err


def test_every_kind_of_reader_is_tried():
    assert set(ALL.split("|")) <= set(TARGETS)


def _reads(fault):
    return fuzz.Target("x.txt", (b"a",), fault)


def _loops(path):
    while True:
        pass


def _dies(path):
    fuzz.os._exit(3)


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (lambda path: [][1], "traceback: IndexError"),
        (lambda path: int("x"), "unclear: ValueError"),
        (lambda path: bytearray(b"x" * 600), "memory"),
        (_loops, "hang: more than"),
        (_dies, "ended the process"),
    ],
)
def test_every_kind_of_fault_is_noticed(monkeypatch, reader, expected):
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "MOST_BYTES", -1 if expected == "memory" else 10**9)

    assert fuzz.outcomes(_reads(reader), 2, "x")[0].startswith(expected)

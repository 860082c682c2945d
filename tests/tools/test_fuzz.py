"""Spoiled files: every reader reads them or answers with a sentence that names the file."""

import pytest

from tools import fuzz

TARGETS = fuzz.targets()
ALL = "split|yaml|config|results|tables|log|metrics|checkpoint|weights|draw|names.txt|cupl"


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_files_are_read_or_answered(name):
    found = fuzz.outcomes(TARGETS[name], 25, f"suite/{name}")

    assert set(found) <= {"read", "answered"} and len(found) == 25, found


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

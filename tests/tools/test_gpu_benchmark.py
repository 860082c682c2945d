"""The benchmark of a GPU: what one part or case that fails leaves of the others."""

import importlib.util
import json

import pytest

from tools.benchmarks import gpu
from tools.benchmarks.gpu._measure import Bench, each, row


def test_the_parts_exist_and_take_at_most_six_minutes():
    names = [f"{gpu.__name__}.{part}" for part in gpu.PARTS]

    assert all(map(importlib.util.find_spec, names))
    assert sum(gpu.PARTS.values()) <= 6 * 60


def test_a_part_that_fails_is_a_row_that_says_why():
    (found,) = gpu.run_part("no_such_part", 60, quick=True)

    assert found["name"] == "no_such_part did not end"
    assert "exit status 1" in found["note"] and "No module named" in found["note"]


def test_a_part_that_hangs_is_stopped():
    (found,) = gpu.run_part("amu", 0.01, quick=True)

    assert "stopped after 0 s" in found["note"]


def test_after_a_case_that_fails_the_next_one_runs(capsys):
    def fail():
        raise RuntimeError("CUDA out of memory")

    each(Bench(60, quick=True), [("first", fail), ("second", lambda: row("second", 2.0, 1.0))])

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [found["name"] for found in rows] == ["first", "second"]
    assert rows[0]["note"] == "failed: RuntimeError: CUDA out of memory"
    assert rows[1]["speedup"] == 2.0


def test_without_time_no_case_is_begun(capsys):
    each(Bench(-1, quick=True), [("late", lambda: pytest.fail("it ran"))])

    assert json.loads(capsys.readouterr().out)["note"] == "no time was left for it"


def test_without_a_gpu_the_whole_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(RuntimeError, match="no CUDA device. Add --quick"):
        gpu.run(type("Args", (), {"quick": False}))

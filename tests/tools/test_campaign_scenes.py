"""Scenes of a campaign in small: many runs in one process, two hosts on one folder."""

import os
import threading
from functools import partial
from pathlib import Path

import pytest
from rank_runs import whole_run
from small_configs import small_config

from tools import campaign
from tools.campaigns.hosts import can_have_hosts, seen_elsewhere
from tools.campaigns.soak import Footprint, growth, repeated
from tools.campaigns.traces import completions, leftovers


def test_runs_in_one_process_leave_nothing_in_it(tmp_path, monkeypatch):
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path / "cache"))

    def run(number, name):
        output = ("OUTPUT_DIR", str(tmp_path / "runs" / f"{name}{number}"))
        return partial(whole_run, small_config(name, tmp_path, *output))

    found = repeated([[run(number, name) for name in ("TaskRes", "MMA")] for number in range(3)])

    assert growth(found) == []
    assert leftovers(tmp_path) == {}
    assert completions(tmp_path / "runs") == dict.fromkeys(completions(tmp_path / "runs"), 1)


@pytest.mark.parametrize("kind", ["files", "threads"])
def test_what_a_run_leaves_in_its_process_is_found(kind, tmp_path):
    ended = threading.Event()
    kept = []

    def leak():
        if kind == "files":
            kept.append((tmp_path / f"{len(kept)}").open("w"))
        else:
            threading.Thread(target=ended.wait).start()

    found = repeated([[], [leak]])
    ended.set()
    for file in kept:
        file.close()

    (fault,) = growth(found)
    assert fault.startswith(f"{kind} grew from ")


def test_memory_may_vary_but_not_grow():
    before, some, much = (Footprint(size, 3, 0, 1) for size in (10**9, 10**9 + 10**7, 2 * 10**9))

    assert growth([much, before, some]) == []
    assert growth([before, much]) == ["memory grew from 1000000000 to 2000000000"]


def test_a_lock_is_seen_on_another_host_that_shares_the_folder(tmp_path):
    if os.name != "posix" or not can_have_hosts():
        pytest.skip("namespaces take root")

    assert seen_elsewhere(tmp_path / "shared") == "first second True"


@pytest.mark.parametrize(("faults", "status"), [([], 0), (["differs: a"], 1)])
def test_a_scene_ends_with_what_was_seen_and_what_is_wrong(
    faults, status, tmp_path, monkeypatch, capsys
):
    def play(folder: Path):
        return ["24 runs"], faults

    monkeypatch.setattr("tools.campaigns.soak.play", play)

    assert campaign.main(["soak", "--output", str(tmp_path)]) == status

    expected = "24 runs\n" + "".join(f"FAULT: {text}\n" for text in faults)
    assert capsys.readouterr().out == expected and (tmp_path / "soak").is_dir() == bool(faults)

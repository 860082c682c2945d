"""The campaign of kills and signals sees what differs and what is left, and can be resumed."""

import json
import random
import signal
import sys

import pytest

from tools import campaign
from tools.campaigns.attempts import Attempt, Disturbance, attempt
from tools.campaigns.subjects import Subject
from tools.campaigns.traces import digests, leftovers

PROGRAM = """
import json, os, pathlib, signal, subprocess, sys, time
folder, how = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.mkdir(parents=True, exist_ok=True)
def end(signum, frame):
    sys.exit(130 if signum == signal.SIGINT else 75)
for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"):
    signal.signal(getattr(signal, name), end)
if how == "orphans":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
state = folder / "resume.state"
first = int(state.read_text()) if state.is_file() else 0
for step in range(first, 10):
    time.sleep(0.02)
    (folder / ".resume.state.abcdefgh.tmp").write_text(str(step + 1))
    os.replace(folder / ".resume.state.abcdefgh.tmp", state)
value = first if how == "forgets" else 0
(folder / "results.json").write_text(json.dumps({"metrics": value, "seconds": time.time()}))
state.unlink()
"""


@pytest.fixture
def disturbed(tmp_path, monkeypatch, capsys):
    """The exit status and text of a campaign over a small program of some kind."""

    def run(kind, how="", moments=2):
        words = lambda output: ["-c", PROGRAM, str(output / "run"), how]  # noqa: E731
        monkeypatch.setattr(campaign, "SUBJECTS", {"run": Subject("a program", words)})
        monkeypatch.setattr("tools.campaigns.attempts.SECONDS_OF_OTHERS", 0.5)
        words = [kind, "--only", "run", "--moments", str(moments), "--output", str(tmp_path)]
        status = campaign.main(words)
        return status, capsys.readouterr().out

    return run


def test_killed_runs_that_end_as_undisturbed_ones_are_counted_and_kept(disturbed, tmp_path):
    disturbed("kills", moments=1)
    first = (tmp_path / campaign.RECORDS).read_text()

    status, text = disturbed("kills", moments=2)

    lines = (tmp_path / campaign.RECORDS).read_text()
    records = [json.loads(line) for line in lines.splitlines()]
    hits = [entry for record in records for entry in record["attempts"] if entry["hit"]]
    assert status == 0 and len(hits) >= 2 and lines.startswith(first)
    assert f"{len(hits)} SIGKILL" in text and f"{len(records) - 1} of {len(records) - 1}" in text


def test_a_run_that_ends_otherwise_after_a_signal_is_named(disturbed):
    status, text = disturbed("signals", "forgets", moments=1)

    assert status == 1 and "differs: run/results.json" in text


@pytest.mark.parametrize(
    ("name", "status", "is_expected"),
    [("SIGTERM", 75, True), ("SIGINT", 130, True), ("SIGTERM", 1, False), ("SIGINT", 75, False)],
)
def test_exit_statuses_are_those_of_the_pages(name, status, is_expected):
    ended = Attempt(status, seconds=1.0, hit="command", others=0.0, orphans=[])

    assert campaign._is_documented(name, ended) == is_expected


@pytest.mark.parametrize(
    ("code", "began"),
    [("", False), ("print(1, flush=True); ", True), ("open('a', 'w').close(); ", True)],
)
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGINT"])
def test_a_signal_may_end_python_itself_before_a_command_has_begun(name, code, began, tmp_path):
    code = f"import os, signal; os.chdir({str(tmp_path)!r}); {code}os.kill(0, signal.{name})"

    ended = attempt(
        [sys.executable, "-S", "-c", code],
        log=tmp_path / "log.txt",
        cache=tmp_path,
        rng=random.Random(0),
    )
    ended.hit = "command"

    assert ended.status == -signal.Signals[name].value
    assert campaign._is_documented(name, ended) != began


def test_a_command_that_ignores_a_signal_is_named(tmp_path, monkeypatch):
    trial = campaign.Campaign("run", "signals", folder=tmp_path, seed=1)
    monkeypatch.setattr(trial, "records", lambda: [{"digests": {}}])
    entry = {"signal": "SIGINT", "moment": 5.0, "status": 0, "seconds": 60.0, "hit": "command"}

    (fault,) = trial.faults(
        {"attempts": [{**entry, "others": 0.0, "orphans": []}], "digests": {}, "leftovers": {}}
    )

    assert fault == "went on for 55 s after SIGINT"


def test_a_campaign_that_ignores_signals_starts_commands_that_do_not(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        ended = attempt(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            log=tmp_path / "log.txt",
            cache=tmp_path,
            disturbance=Disturbance(signal.SIGINT, 0.2),
            rng=random.Random(0),
        )
    finally:
        signal.signal(signal.SIGINT, before)

    assert ended.status not in (None, 0) and ended.seconds < 30


def test_processes_that_outlive_a_command_are_found(disturbed):
    status, text = disturbed("kills", "orphans", moments=1)

    assert status == 1 and "left processes after" in text and "sleep(60)" in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["kills", "--only", "runs"], "Unknown command runs. Known: run, protocol, ray, ranks."),
        (["kills", "--moments", "0"], "--moments is 0; expected at least 1."),
    ],
)
def test_wrong_options_of_a_campaign_are_explained(words, text, capsys):
    assert campaign.main(words) == 1
    assert text in capsys.readouterr().err


def test_times_are_not_compared_and_every_other_bit_is(tmp_path):
    def written(**content):
        (tmp_path / "results.json").write_text(json.dumps(content))
        return digests(tmp_path)

    assert written(seconds=1, metrics=0.1) == written(seconds=2, metrics=0.1)
    assert written(metrics=0.1) != written(metrics=0.1 + sys.float_info.epsilon)


def test_temporary_files_are_left_over(tmp_path):
    (tmp_path / ".a.abcd1234.tmp").write_text("")

    assert leftovers(tmp_path) == {"temporary files": [".a.abcd1234.tmp"]}

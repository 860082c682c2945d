"""A signal ends a run at a safe point; the same command again gives the same bits."""

import errno
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_toy
import pytest
import torch

from dassl.engine import build_trainer
from dassl.engine.state.resume import RESUME_FILE
from dassl.terminal import as_script
from dassl.utils import interrupts, load_checkpoint, set_random_seed
from dassl.utils.interrupts import Interruption, exit_status, farewell

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return engine_toy.make_images(tmp_path_factory.mktemp("images"), per_class=8)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def watched():
    """Signals reach this process, also where it was started with some ignored (nohup)."""
    numbers = interrupts.NUMBERS.values()
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    with interrupts.watching():
        yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def build(images, output, **settings):
    set_random_seed(1)
    settings = {"DATALOADER__NUM_WORKERS": 0, **settings}
    return build_trainer(engine_toy.make_cfg(images, output, **settings))


def signalled(images, output, signum, *, at_step, **settings):
    """A run that gets a signal within its step ``at_step`` (counted from 1); what ended it."""
    trainer = build(images, output, **settings)
    update = trainer.model_backward_and_update

    def model_backward_and_update(loss):
        if trainer.steps == at_step:
            os.kill(os.getpid(), signum)
        update(loss)

    trainer.model_backward_and_update = model_backward_and_update
    with pytest.raises(Interruption) as caught:
        trainer.train()
    return caught.value


def weights(output):
    return load_checkpoint(str(output / "toy" / "model.pth.tar-3"))


def assert_same_run(first, second):
    one, other = weights(first), weights(second)
    assert all(torch.equal(one["state_dict"][k], other["state_dict"][k]) for k in one["state_dict"])
    assert torch.equal(*(state["optimizer"]["state"][0]["exp_avg"] for state in (one, other)))


@pytest.mark.parametrize(
    ("workers", "seeding", "sampler", "steps"),
    [
        (0, "sample", "RandomSampler", (4, 8, 18)),
        (0, "worker", "RandomClassSampler", (2, 12)),
        (2, "sample", "RandomSampler", (8,)),
    ],
)
def test_a_run_that_signals_end_within_epochs_continues_with_the_same_bits(
    images, tmp_path, watched, workers, seeding, sampler, steps
):
    settings = {
        "DATALOADER__NUM_WORKERS": workers,
        "DATALOADER__SEEDING": seeding,
        "DATALOADER__TRAIN_X__SAMPLER": sampler,
        "DATALOADER__TRAIN_X__N_INS": 2,
    }
    build(images, tmp_path / "whole", **settings).train()

    for signum, step in zip(SIGNALS, steps):
        signalled(images, tmp_path / "cut", signum, at_step=step, **settings)
    build(images, tmp_path / "cut", **settings).train()

    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0].count("\n") == logs[1].count("\n")


def test_the_step_is_finished_and_the_place_said(images, tmp_path, watched):
    err = signalled(images, tmp_path, signal.SIGTERM, at_step=8)

    assert load_checkpoint(str(tmp_path / RESUME_FILE))["extra"]["steps"] == 8
    assert farewell(err) == (
        f"Stopped by SIGTERM after epoch 2, batch 2 of 6; state saved in {tmp_path}/{RESUME_FILE} "
        "(exit status 75: start again). Run the same command again to resume from the last "
        "checkpoint."
    )


def test_an_interrupted_run_leaves_no_process_of_its_loaders(images, tmp_path, watched):
    signalled(images, tmp_path, signal.SIGTERM, at_step=2, DATALOADER__NUM_WORKERS=2)

    assert multiprocessing.active_children() == []


def test_ctrl_c_before_anything_is_under_way_speaks_of_no_checkpoint(watched):
    with interrupts.watching(), pytest.raises(Interruption) as caught:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    assert farewell(caught.value) == (
        "Interrupted. No run was under way: the same command starts again."
    )


def test_a_signal_that_comes_while_a_module_loads_waits_for_the_end_of_it(
    tmp_path, watched, monkeypatch
):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nis_loaded = True\n"
    (tmp_path / "signalled.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(Interruption):
        module = importlib.import_module("signalled")
        time.sleep(10)

    assert module.is_loaded


@pytest.mark.parametrize(
    ("signum", "status", "text"),
    [
        (signal.SIGINT, 130, "Interrupted. No run was under way: the same command starts again."),
        (signal.SIGHUP, 75, "Stopped by SIGHUP (exit status 75: start again). No run was under"),
    ],
)
def test_a_signal_ends_every_program_with_one_line(signum, status, text, watched, capsys):
    with pytest.raises(SystemExit) as caught:
        as_script(lambda: [os.kill(os.getpid(), signum), time.sleep(10)])

    assert caught.value.code == status
    assert capsys.readouterr().err.strip().startswith(text)


def test_a_signal_before_a_program_has_begun_waits_for_it(watched, monkeypatch, capsys):
    monkeypatch.setattr(interrupts.atexit, "register", lambda *_: None)
    monkeypatch.setattr(interrupts._watch, "noted", 0)
    interrupts.stand_by()
    os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(SystemExit) as caught:
        as_script(lambda: pytest.fail("not reached"))
    os.kill(os.getpid(), signal.SIGTERM)

    assert caught.value.code == 75
    assert capsys.readouterr().err.startswith("\nStopped by SIGUSR1 (exit status 75: start again)")


def test_signals_while_python_ends_leave_the_exit_status(watched):
    """The object dies when Python has taken its handlers away; nothing heavy loads before them."""
    code = """if True:
        import os, sys
        before = set(sys.modules)  # an editable install has loaded some
        from dassl.utils import interrupts
        interrupts.stand_by()
        heavy = {"ctypes", "logging", "multiprocessing", "pathlib"}
        assert not heavy & (set(sys.modules) - before)
        class Late:
            def __del__(self, kill=os.kill, pid=os.getpid(), numbers=interrupts.NUMBERS):
                for name in (*numbers,):
                    kill(pid, numbers[name])
        sys.late = Late()
        from dassl.terminal import as_script
        as_script(lambda: 3)"""

    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_signal_during_an_evaluation_waits_for_the_end_of_the_epoch(images, tmp_path, watched):
    trainer = build(images, tmp_path, TEST__SELECT_ON="val")
    trainer.model_inference = lambda images: [
        os.kill(os.getpid(), signal.SIGTERM),
        trainer.model(images),
    ][1]

    with pytest.raises(Interruption) as caught:
        trainer.train()

    assert caught.value.where.startswith("epoch 1; state saved")
    assert load_checkpoint(str(tmp_path / RESUME_FILE))["epoch"] == 1


def test_a_step_that_outlasts_the_grace_time_is_not_waited_for(images, tmp_path, watched):
    trainer = build(images, tmp_path, TRAIN__GRACE_SECONDS=0.05)

    def endless(batch):
        os.kill(os.getpid(), signal.SIGUSR1)
        while True:
            time.sleep(0.01)

    trainer.forward_backward = endless
    with pytest.raises(Interruption) as caught:
        trainer.train()

    assert caught.value.signum == signal.SIGUSR1 and caught.value.where == ""


def test_a_second_ctrl_c_ends_a_run_at_once(images, tmp_path, watched, monkeypatch):
    monkeypatch.setattr(interrupts, "SECONDS_TO_SECOND", -1.0)
    trainer = build(images, tmp_path)

    def twice(batch):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    trainer.forward_backward = twice
    with pytest.raises(Interruption):
        trainer.train()


def test_long_epochs_keep_their_state_now_and_then(images, tmp_path, monkeypatch):
    monkeypatch.setattr("dassl.engine.state.partial_epoch.SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("dassl.engine.state.partial_epoch.LEAST_RATIO", 0)
    build(images, tmp_path / "whole").train()
    trainer = build(images, tmp_path / "cut")

    def die():
        if trainer.steps == 9:
            raise MemoryError

    trainer.check_weights = die
    with pytest.raises(MemoryError):
        trainer.train()
    build(images, tmp_path / "cut").train()

    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_what_is_to_be_ignored_stays_ignored(watched):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    interrupts.watch()

    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("err", "status"),
    [
        (KeyboardInterrupt(), 130),
        (Interruption(signal.SIGINT), 130),
        (Interruption(signal.SIGTERM), 75),
        (Interruption(signal.SIGHUP), 75),
        (ValueError("OPTIM.LR is -1"), 2),
        (FileNotFoundError(errno.ENOENT, "no such file"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 71),
        (torch.OutOfMemoryError("CUDA out of memory."), 71),
        (RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed."), 71),
        (RuntimeError("size mismatch"), 2),
    ],
)
def test_the_exit_status_says_whether_to_start_again(err, status):
    assert exit_status(err) == status

"""A run that torchrun shares among processes is the run of one process."""

import json
import logging
import os
import signal
import time
import warnings

import pytest
import torch
import torch.distributed as dist
from pretend_device import GPU, PretendedGPU
from rank_runs import in_ranks, losses_of, weights_of, whole_run
from small_configs import small_config

import train
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.command.run import check_shareable
from dassl.utils import heartbeat, interrupts, ranks

TWO = 2
BATCHES_OF_FIVE = ("DATALOADER.TRAIN_X.BATCH_SIZE", "5")  # 3 and 2 images
RUNS = {
    "TaskRes": BATCHES_OF_FIVE,  # reads features, which are stored first
    "MMA": (*BATCHES_OF_FIVE, "TEST.SELECT_ON", "val"),  # reads pixels, chooses an epoch
    "VL2VADiP": ("DATALOADER.TRAIN_X.BATCH_SIZE", "3"),  # steps over domains, two stages
}
STAGES = {"VL2VADiP": ("align", "distill")}


def run_all(folder, images):
    for name, pairs in RUNS.items():
        whole_run(small_config(name, images, *pairs, "OUTPUT_DIR", str(folder / name)))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Where the datasets and the backbone of all runs are."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, images):
    """The runs of one process, and the same of two."""
    base = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLTUNE_CACHE", str(base / "alone" / "cache"))
        run_all(base / "alone", images)
    statuses = in_ranks(TWO, lambda rank: run_all(base / "shared", images), base / "shared")
    assert statuses == [0, 0], (base / "shared" / "rank1.txt").read_text()
    return base / "alone", base / "shared"


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_loss_curve_of_one(folders, name):
    alone, shared = (folder / name for folder in folders)

    for stage in STAGES.get(name, ("",)):
        expected, actual = (torch.tensor(losses_of(run / stage)) for run in (alone, shared))
        assert len(expected) > 2
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


# Of the second stage the losses alone: a key's bias has no gradient but rounding errors, and Adam
# divides them by their own size.
@pytest.mark.parametrize("name", ["TaskRes", "MMA", "VL2VADiP/align"])
def test_two_processes_train_the_weights_of_one(folders, name):
    alone, shared = (weights_of(folder / name) for folder in folders)

    torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_test_every_image_once(folders, name):
    alone, shared = (results_of(folder / name) for folder in folders)

    assert shared["tested_images"] == alone["tested_images"]
    for classifier, metrics in alone["metrics"].items():
        assert shared["metrics"][classifier] == pytest.approx(metrics), classifier
    assert (shared["processes"], alone.get("processes")) == (2, None)


def test_the_first_process_alone_logs_more_than_errors(monkeypatch):
    levels = []
    monkeypatch.setattr(logging, "basicConfig", lambda **given: levels.append(given["level"]))
    monkeypatch.setattr(logging, "captureWarnings", lambda is_on: None)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        train.setup_logging()

    assert levels == [logging.INFO, logging.ERROR]


def test_two_processes_ask_the_teacher_as_often_as_one(folders):
    alone, shared = (results_of(folder / "VL2VADiP")["metrics"] for folder in folders)

    assert shared["teacher queries"] == alone["teacher queries"]


def test_two_processes_store_the_features_of_every_image_once(folders):
    alone, shared = (
        sum(path.stat().st_size for path in folder.glob("cache/features/*/*/*.index"))
        for folder in folders
    )

    assert shared == alone > 0
    writers = {path.name.split("-")[1] for path in folders[1].glob("cache/features/*/*/*.index")}
    assert len(writers) == TWO


@pytest.mark.parametrize("name", RUNS)
def test_one_process_writes_the_files_of_a_run(folders, name):
    alone, shared = (
        {path.relative_to(folder).as_posix() for path in (folder / name).rglob("*.*")}
        for folder in folders
    )

    assert {p for p in shared if "events" not in p} == {p for p in alone if "events" not in p}
    assert (folders[1] / "rank1.txt").read_text() == ""


def test_a_process_ends_with_the_other_and_a_restart_has_the_same_bits(folders, images, tmp_path):
    def config():
        output = str(tmp_path / "TaskRes")
        return small_config("TaskRes", images, *RUNS["TaskRes"], "OUTPUT_DIR", output)

    def interrupted(rank):
        os.environ["VLTUNE_RESUME_SECONDS"] = "0"
        kind = TRAINER_REGISTRY.get("TaskRes")
        original = kind.forward_backward

        def step(trainer, batch):
            if trainer.epoch == 1 and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(trainer, batch)

        kind.forward_backward = step
        whole_run(config())

    start = time.monotonic()
    statuses = in_ranks(TWO, interrupted, tmp_path / "first")
    assert statuses == [1, -signal.SIGKILL]
    assert time.monotonic() - start < 60
    said = (tmp_path / "first" / "rank0.txt").read_text()
    assert "LostRankError: Another of the 2 processes of this run has ended" in said
    assert (tmp_path / "TaskRes" / "resume.pth.tar").is_file()

    assert in_ranks(TWO, lambda rank: whole_run(config()), tmp_path / "second") == [0, 0]

    undisturbed = weights_of(folders[1] / "TaskRes")
    torch.testing.assert_close(weights_of(tmp_path / "TaskRes"), undisturbed, rtol=0, atol=0)


def test_a_process_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "SILENCE", 1.0)

    def act(rank):
        logging.basicConfig(force=True)
        heartbeat.BEAT = 0.1 if rank == 0 else 60.0  # rank 1 gives no sign
        with ranks.joined(uses_cuda=False):
            if rank == 0:
                ranks.barrier()
            time.sleep(4.0)
            os._exit(0)

    assert in_ranks(TWO, act, tmp_path) == [interrupts.MACHINE, 0]
    said = (tmp_path / "rank0.txt").read_text()
    assert "No sign of life of rank 1 for 1 seconds; this process (rank 0) ends, too." in said
    assert "Run the same command again to resume" in said


def test_a_process_ends_when_torchrun_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "SILENCE", 0.5)
    monkeypatch.setattr(heartbeat, "BEAT", 0.1)

    def act(rank):
        logging.basicConfig(force=True)
        joined, parent = [], os.getppid()
        monkeypatch.setattr(os, "getppid", lambda: 1 if joined else parent)
        signal.signal(signal.SIGTERM, lambda *_: print("kept"))
        with ranks.joined(uses_cuda=False):
            joined.append(True)
            time.sleep(4.0)

    assert in_ranks(TWO, act, tmp_path) == [interrupts.MACHINE] * TWO
    said = (tmp_path / "rank0.txt").read_text()
    assert said.startswith("kept") and "The process that started this one has ended" in said


def test_a_process_does_not_wait_to_join_where_torchrun_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "SILENCE", 0.5)
    monkeypatch.setattr(heartbeat, "BEAT", 0.1)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # and nobody listens

    def act(rank):
        with ranks.joined(uses_cuda=False):
            pass

    assert in_ranks(TWO, act, tmp_path) == [interrupts.MACHINE] * TWO


def test_a_process_whose_torchrun_ended_during_its_imports_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT", 0.1)

    def act(rank):
        logging.basicConfig(force=True)
        interrupts.watch()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        if rank == 1:
            return  # the first waits for it in vain
        with ranks.joined(uses_cuda=False):
            pass

    assert in_ranks(TWO, act, tmp_path) == [interrupts.MACHINE, 0]
    assert "The process that started this one has ended" in (tmp_path / "rank0.txt").read_text()


def test_processes_that_torchrun_starts_again_find_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    kept = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def act(rank):
        os.environ["MASTER_PORT"] = str(kept.port)
        time.sleep(0.0 if rank else 0.5)  # the address of the first one before is still there
        with ranks.joined(uses_cuda=False):
            pass

    for start in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", start)
        assert in_ranks(TWO, act, tmp_path / start) == [0, 0]


@pytest.fixture
def launched(monkeypatch):
    """As in a process that torchrun has started."""
    for name, value in zip(ranks.VARIABLES, ("0", "2", "127.0.0.1", "1")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", ["AMU", "DMN", "LinearProbe", "TPT", "TipAdapterF"])
def test_what_needs_all_images_in_one_process_is_refused(launched, images, name):
    text = f"torchrun started 2 processes, but {name} runs in one: .*Start it without torchrun"

    with pytest.raises(ValueError, match=text):
        check_shareable(small_config(name, images))


def test_augmentation_that_depends_on_workers_is_refused(launched, images):
    cfg = small_config("MMA", images, "DATALOADER.SEEDING", "worker")

    with pytest.raises(ValueError, match="Set DATALOADER.SEEDING sample"):
        check_shareable(cfg)


def test_more_processes_than_images_of_a_batch_are_refused(monkeypatch):
    monkeypatch.setattr(ranks, "size", lambda: 4)

    with pytest.raises(ValueError, match="batch of 3 cannot be shared among 4 processes"):
        ranks.part([1, 2, 3])


def test_weights_that_differ_between_processes_end_the_run(monkeypatch):
    monkeypatch.setattr(ranks, "gather", lambda value: [value, value + 1])

    with pytest.raises(RuntimeError, match="The trained weights differ between the"):
        ranks.check_equal("The trained weights", 1.0)


def test_means_of_losses_on_a_gpu_stay_there_until_they_are_read(monkeypatch):
    monkeypatch.setattr(ranks, "size", lambda: TWO)
    monkeypatch.setattr(ranks, "sum_in_place", lambda values: values.mul_(TWO))
    with PretendedGPU() as gpu:
        loss = torch.tensor(2.0).to(GPU)
        gpu.forget()

        means = ranks.mean({"loss": loss, "acc": 50.0}, 1)

        assert not gpu.waits and all(value.device == GPU for value in means.values())
        assert [value.item() for value in means.values()] == [2.0, 50.0]

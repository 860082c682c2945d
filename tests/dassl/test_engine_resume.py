"""Exact resume: whatever kills a run, starting it again gives the same bits."""

import multiprocessing
import os
import random
import time
from pathlib import Path

import engine_toy
import pytest
import torch

from dassl.engine import build_trainer
from dassl.engine.command import run as run_module
from dassl.engine.command.cli import make_parser
from dassl.engine.state.resume import RESUME_FILE
from dassl.utils import load_checkpoint, set_random_seed
from tools.protocols.launcher import PRELOAD, SERVER


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return engine_toy.make_images(tmp_path_factory.mktemp("images"), per_class=8)


@pytest.fixture(autouse=True)
def resume_file_every_epoch(monkeypatch):
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", "0")


def processes():
    """Processes that fork from a server which has imported the toy trainer already."""
    support = Path(engine_toy.__file__).resolve().parent
    os.environ["PYTHONPATH"] = os.pathsep.join([str(support), str(support.parents[1])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([SERVER, *PRELOAD, "engine_toy"])
    return context


def run_process(images, output, **settings):
    process = processes().Process(
        target=engine_toy.train_once, args=(str(images), str(output)), kwargs=settings
    )
    process.start()
    return process


def finish(process):
    process.join(120)
    assert process.exitcode == 0


def kill_after_first_epochs(process, output, delay):
    """SIGKILL some moment after the first resume file is there; whether it hit a living run."""
    deadline = time.monotonic() + 60
    while process.is_alive() and not (output / RESUME_FILE).exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.join(delay)
    was_alive = process.is_alive()
    process.kill()
    process.join()
    return was_alive


def final_checkpoints(output):
    folder = output / "toy"
    names = sorted(path.name for path in folder.glob("model*"))
    return {name: load_checkpoint(str(folder / name)) for name in names}


def assert_same(first, second, where="checkpoint"):
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_same(first[key], second[key], f"{where}[{key!r}]")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, (left, right) in enumerate(zip(first, second)):
            assert_same(left, right, f"{where}[{i}]")
    else:
        assert first == second, where


@pytest.mark.parametrize(
    ("workers", "seeding", "epochs"), [(0, "sample", 6), (0, "worker", 6), (2, "sample", 4)]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(
    images, tmp_path, workers, seeding, epochs
):
    settings = {
        "TEST__SELECT_ON": "val",
        "TRAIN__CHECKPOINT_FREQ": 5,
        "DATALOADER__NUM_WORKERS": workers,
        "DATALOADER__SEEDING": seeding,
        "OPTIM__MAX_EPOCH": epochs,
    }
    finish(run_process(images, tmp_path / "whole", **settings))
    moments = random.Random(workers)

    kills = [
        kill_after_first_epochs(
            run_process(images, tmp_path / "killed", **settings),
            tmp_path / "killed",
            moments.uniform(0, 0.1),
        )
        for _ in range(2)
    ]
    finish(run_process(images, tmp_path / "killed", **settings))

    assert any(kills)
    assert_same(final_checkpoints(tmp_path / "whole"), final_checkpoints(tmp_path / "killed"))


def test_a_finished_run_leaves_no_resume_file(images, tmp_path):
    trained(images, tmp_path)

    assert not list(tmp_path.glob("resume*"))


def trained(images, output, **settings):
    set_random_seed(1)
    trainer = build_trainer(engine_toy.make_cfg(images, output, **settings))
    trainer.train()
    return trainer


class Stopped(Exception):
    pass


def interrupted(images, output, *, at_epoch, **settings):
    """A run that dies at the beginning of an epoch (counted from 0)."""
    set_random_seed(1)
    trainer = build_trainer(engine_toy.make_cfg(images, output, **settings))

    def die():
        if trainer.epoch == at_epoch:
            raise Stopped

    trainer.before_epoch = die
    with pytest.raises(Stopped):
        trainer.train()


def test_an_interrupted_run_goes_on_at_the_next_epoch_with_best_result_and_extra_state(
    images, tmp_path
):
    interrupted(images, tmp_path / "a", at_epoch=2, TEST__SELECT_ON="val")

    resumed = trained(images, tmp_path / "a", TEST__SELECT_ON="val")
    whole = trained(images, tmp_path / "b", TEST__SELECT_ON="val")

    assert resumed.start_epoch == 2
    assert resumed.best_result == whole.best_result
    assert resumed.selected_epoch == whole.selected_epoch
    assert resumed.steps == whole.steps
    assert resumed.results == whole.results


def test_metrics_lines_of_the_interrupted_epochs_are_not_doubled(images, tmp_path):
    interrupted(images, tmp_path / "a", at_epoch=2)
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "batch": 1}\n{"epoch": 3, "ba')

    trained(images, tmp_path / "a")
    trained(images, tmp_path / "b")

    lines = [(tmp_path / x / "metrics.jsonl").read_text().splitlines() for x in "ab"]
    assert len(lines[0]) == len(lines[1])


def test_a_resume_file_of_another_config_is_refused_naming_the_keys(images, tmp_path):
    interrupted(images, tmp_path, at_epoch=1)

    with pytest.raises(ValueError, match=r"OPTIM\.LR was 0\.01, now 0\.5"):
        trained(images, tmp_path, OPTIM__LR=0.5)


def test_a_truncated_resume_file_is_refused_with_what_to_do(images, tmp_path):
    interrupted(images, tmp_path, at_epoch=1)
    path = tmp_path / RESUME_FILE
    path.write_bytes(path.read_bytes()[:500])

    with pytest.raises(ValueError, match="truncated"):
        trained(images, tmp_path)


def test_a_resume_file_that_lacks_an_entry_is_refused_by_its_name(images, tmp_path):
    interrupted(images, tmp_path, at_epoch=1)
    path = tmp_path / RESUME_FILE
    whole = torch.load(path, weights_only=True)

    for name in ("config", "optimizers", "rng", "epoch", "extra"):
        torch.save({key: value for key, value in whole.items() if key != name}, path)
        with pytest.raises(ValueError, match=f"{RESUME_FILE} is damaged: it has no '{name}'"):
            trained(images, tmp_path)


def test_a_resume_file_with_an_entry_of_another_form_is_refused_with_what_to_do(images, tmp_path):
    interrupted(images, tmp_path, at_epoch=1)
    path = tmp_path / RESUME_FILE
    whole = torch.load(path, weights_only=True)
    optimizer = whole["optimizers"]["toy"]
    kept = min({key for moments in optimizer["state"].values() for key in moments} - {"step"})

    def with_moments(change):
        state = {i: {**m, kept: change(m[kept])} for i, m in optimizer["state"].items()}
        return {"toy": {**optimizer, "state": state}}

    wrong = {
        "epoch": [("2", "its epoch is of type str"), (9, "its epoch is 9 of 3")],
        "stop": [("yes", "its stop is of type str")],
        "config": [("a: [1", "its config is not valid YAML")],
        "models": [
            ({"toy": {"2.bias": torch.ones(3)}}, "Missing key.s. in state_dict: .2.weight"),
            ({"toy": {3: torch.ones(3)}}, "'int' object has no attribute"),
        ],
        "optimizers": [
            ({}, "it has no 'toy'"),
            ({"toy": {"state": {}}}, "no 'param_groups'"),
            (with_moments(lambda x: torch.cat([x, x])), f"{kept} is .*, its parameter"),
            (with_moments(lambda x: x * torch.nan), f"{kept} holds numbers that are not finite"),
        ],
        "rng": [({**whole["rng"], "torch": torch.ones(3)}, "RNG state must be")],
        "attributes": [({"noise": torch.ones(3, dtype=torch.uint8)}, "size 5056 but")],
        "within": [("x", "string indices must be integers")],
    }

    for name, cases in wrong.items():
        for value, said in cases:
            torch.save({**whole, name: value}, path)
            with pytest.raises(ValueError, match=rf"{RESUME_FILE} is damaged: .*{said}.*Delete it"):
                trained(images, tmp_path)


def test_a_foreign_file_in_place_of_the_resume_file_is_refused(images, tmp_path):
    tmp_path.mkdir(exist_ok=True)
    torch.save({"state_dict": {}}, tmp_path / RESUME_FILE)

    with pytest.raises(ValueError, match="not a resume file of this version"):
        trained(images, tmp_path)


def test_a_run_that_died_before_its_first_resume_file_starts_anew(images, tmp_path, monkeypatch):
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", "1000")
    interrupted(images, tmp_path / "a", at_epoch=2, TRAIN__CHECKPOINT_FREQ=1)

    resumed = trained(images, tmp_path / "a", TRAIN__CHECKPOINT_FREQ=1)
    whole = trained(images, tmp_path / "b", TRAIN__CHECKPOINT_FREQ=1)

    assert resumed.start_epoch == 0
    assert_same(resumed.model.state_dict(), whole.model.state_dict())


def test_resume_of_a_folder_with_checkpoints_only_goes_on_from_the_last_epoch(images, tmp_path):
    trained(images, tmp_path / "old", OPTIM__MAX_EPOCH=2, TEST__FINAL_MODEL="best_val")
    (tmp_path / "old" / "toy" / "checkpoint").write_text("model-best.pth.tar\n")

    trainer = trained(images, tmp_path / "new", RESUME=str(tmp_path / "old"))

    assert trainer.start_epoch == 2
    assert (tmp_path / "new" / "toy" / "model.pth.tar-3").is_file()


def test_resume_of_an_empty_folder_says_what_it_expected(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume from there"):
        trained(images, tmp_path / "new", RESUME=str(tmp_path / "nowhere"))


def test_extra_state_that_is_no_data_is_refused_with_its_place(images, tmp_path):
    set_random_seed(1)
    trainer = build_trainer(engine_toy.make_cfg(images, tmp_path))
    trainer.extra_state = lambda: {"seen": {1, 2}}

    with pytest.raises(TypeError, match=r"\['extra'\]\['seen'\] is a builtins.set"):
        trainer.train()


def test_a_run_that_stopped_early_does_not_go_on_after_a_kill(images, tmp_path):
    set_random_seed(1)
    first = build_trainer(engine_toy.make_cfg(images, tmp_path))
    keep_going = first.after_epoch

    def stop_after_second():
        first.stop = first.epoch == 1
        keep_going()

    def die():
        raise Stopped

    first.after_epoch, first.after_train = stop_after_second, die
    with pytest.raises(Stopped):
        first.train()

    again = trained(images, tmp_path)

    assert (again.start_epoch, again.selected_epoch, again.stop) == (2, 2, True)
    assert not (tmp_path / "toy" / "model.pth.tar-3").exists()


def test_checkpoints_without_a_resume_file_keep_the_best_epoch_of_before(images, tmp_path):
    trained(images, tmp_path, OPTIM__MAX_EPOCH=2, TEST__SELECT_ON="val")
    best = load_checkpoint(tmp_path / "toy" / "model-best.pth.tar") | {"val_result": 101.0}
    torch.save(best, tmp_path / "toy" / "model-best.pth.tar")

    trainer = trained(images, tmp_path, TEST__SELECT_ON="val")

    assert trainer.start_epoch == 2
    assert (trainer.best_result, trainer.selected_epoch) == (101.0, best["epoch"])


def test_the_best_epoch_of_another_run_is_not_taken_over(images, tmp_path):
    trained(images, tmp_path / "old", OPTIM__MAX_EPOCH=2, TEST__SELECT_ON="val")

    settings = {"TEST__SELECT_ON": "val", "RESUME": str(tmp_path / "old")}
    trainer = trained(images, tmp_path / "new", **settings)

    assert (trainer.start_epoch, trainer.selected_epoch) == (2, 3)
    assert (tmp_path / "new" / "toy" / "model-best.pth.tar").is_file()


def test_a_trainer_with_its_own_loop_goes_on_from_its_checkpoints(images, tmp_path):
    def own_loop(trainer):
        trainer.before_train()
        for epoch in range(trainer.start_epoch, trainer.max_epoch):
            trainer.epoch = epoch
            trainer.before_epoch()
            trainer.run_epoch()
            trainer.after_epoch()
        trainer.after_train()

    starts = []
    for epochs in (2, 3):
        set_random_seed(1)
        trainer = build_trainer(engine_toy.make_cfg(images, tmp_path, OPTIM__MAX_EPOCH=epochs))
        own_loop(trainer)
        starts.append(trainer.start_epoch)

    assert starts == [0, 2]


def test_the_memory_for_decoded_images_may_change_when_a_run_goes_on(images, tmp_path):
    interrupted(images, tmp_path, at_epoch=1)

    assert trained(images, tmp_path, DATALOADER__CACHE_MB=0).start_epoch == 1


def test_what_a_kill_in_the_middle_of_writing_left_is_cleared_away(images, tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    for name in (RESUME_FILE, "toy/model.pth.tar-2", "results.json", "toy/checkpoint"):
        path = tmp_path / name
        path.with_name(f".{path.name}.abcd1234.tmp").write_bytes(b"half a file")
    monkeypatch.setattr(run_module, "build_trainer", lambda cfg: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run_module.run(make_parser().parse_args([]), engine_toy.make_cfg(images, tmp_path))

    assert not list(tmp_path.rglob("*.tmp"))

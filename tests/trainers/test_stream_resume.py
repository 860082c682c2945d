"""A test-time stream that is interrupted goes on where it was, and ends with the same bits."""

import importlib
import json
import os
import signal

import pytest
import torch
from battery import backbone_file
from served import served

import train
from trainers.common.testtime import report
from trainers.common.testtime import views as test_views
from trainers.common.testtime.stream import Stream
from trainers.common.testtime.trainer import StreamTrainer

VIEWS, CHUNK = 4, 8  # views per image, images per chunk
SETTINGS = ["N_VIEWS", str(VIEWS), "SELECTION_P", "0.5", "VIEW_KIND", "crop"]
DMN = ["SETTING", "zero_shot", "TEXT_PROMPT", "simple", "MEMORY_SIZE", "2"]


def die_in_the_fourth_chunk(words):
    """In another process: an evaluation on small chunks that is killed from outside."""
    whole, seen = Stream.add, []

    def add(self, step, fused):
        seen.append(len(fused))
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(self, step, fused)

    Stream.add, test_views.CHUNK_VIEWS = add, CHUNK * VIEWS
    train.main(words)


@pytest.fixture(autouse=True)
def small_chunks_all_kept_and_no_picture(monkeypatch):
    monkeypatch.setattr(report, "_draw", lambda *_, **__: None)
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", "0")
    monkeypatch.setattr(test_views, "CHUNK_VIEWS", CHUNK * VIEWS)


def words(folder, trainer, *options, flags=("--eval-only",)):
    node = [*SETTINGS, *(DMN if trainer == "DMN" else ())]
    keys = [f"TRAINER.{trainer}.{w}" if i % 2 == 0 else w for i, w in enumerate(node)]
    start = ["--trainer", trainer, "--dataset", "toy_shapes", "--seed", "1", *flags]
    start += ["--backbone", backbone_file(folder.parent, "micro_vit"), "--no-recipe"]
    start += ["--activation", "quick_gelu", "--output-dir", str(folder)]
    start += ["--config-file", f"configs/trainers/{trainer}/toy.yaml"]
    return [*start, *keys, "DATASET.NUM_SHOTS", "1", "TRAIN.VIEWS", "fresh", *options]


def build(folder, trainer, *options, count=30):
    """A trainer on the first test images of a toy set."""
    for package in ("datasets", "trainers"):
        importlib.import_module(package)
    from dassl.engine import build_trainer
    from dassl.engine.command.cli import make_config, make_parser

    built = build_trainer(make_config(make_parser().parse_args(words(folder, trainer, *options))))
    built.dm.dataset._test = list(built.dm.dataset.test)[:: len(built.dm.dataset.test) // count]
    built.dm.dataset._test = built.dm.dataset._test[:count]
    built.dm.dataset._val = list(built.dm.dataset.val)[: count // 2]
    return built


def interrupt(trainer, chunk):
    """Run a test that ends with Ctrl-C in this chunk, counted from 0; what it had answered."""
    steps, seen = trainer.steps, []

    def stopping(views):
        answer = steps(views)  # the memory has been written to, the answer is lost
        if len(seen) == chunk:
            raise KeyboardInterrupt
        seen.append(len(views))
        return answer

    trainer.steps = stopping
    with pytest.raises(KeyboardInterrupt):
        trainer.test()
    return sum(seen)


def rows(folder, split="test"):
    return (folder / f"stream_{split}.csv").read_text()


def left_behind(folder):
    return sorted(path.name for path in folder.glob("*resume*"))


@pytest.mark.parametrize("trainer", ["DMN", "TPT"])
def test_an_interrupted_stream_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, trainer):
    whole = build(tmp_path / "whole", trainer)
    whole.test()
    interrupt(build(tmp_path / "killed", trainer), chunk=2)
    assert left_behind(tmp_path / "killed") == ["resume.stream_test.pth.tar"]

    rest = build(tmp_path / "killed", trainer)
    steps, seen = rest.steps, []
    rest.steps = lambda views: [seen.append(len(views)), steps(views)][1]
    rest.test()

    assert seen == [CHUNK, 30 - 3 * CHUNK]
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    assert rest.results == whole.results
    assert left_behind(tmp_path / "killed") == []
    if trainer == "DMN":
        assert torch.equal(rest.memory.slots, whole.memory.slots)
        assert torch.equal(rest.memory.gram, whole.memory.gram)


def test_trained_offsets_read_the_same_memory_after_an_interruption(tmp_path):
    options = ["TRAINER.DMN.SETTING", "few_shot", "OPTIM.MAX_EPOCH", "1"]
    whole, killed = (build(tmp_path / name, "DMN", *options) for name in ("whole", "killed"))
    rest = build(tmp_path / "killed", "DMN", *options)
    for trainer in (whole, killed, rest):
        torch.manual_seed(0)
        for offset in trainer.method.parameters():
            torch.nn.init.normal_(offset, std=0.05)

    whole.test()
    interrupt(killed, chunk=2)
    rest.test()

    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(
            vars(rest.memory.terms).values(), vars(whole.memory.terms).values(), strict=True
        )
    )


@pytest.mark.parametrize("trainer", ["DMN", "TPT"])
def test_a_killed_evaluation_goes_on_when_it_is_started_again(tmp_path, trainer):
    length = [f"TRAINER.{trainer}.STREAM_LENGTH", "40"]
    child = served(die_in_the_fourth_chunk, words(tmp_path / "killed", trainer, *length))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert left_behind(tmp_path / "killed") == ["resume.stream_test.pth.tar"]

    resumed = train.main(words(tmp_path / "killed", trainer, *length))

    whole = train.main(words(tmp_path / "whole", trainer, *length))
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    assert resumed["metrics"] == whole["metrics"]
    assert not any("resume" in name for name in resumed["files"])
    assert left_behind(tmp_path / "killed") == []


def test_a_stream_killed_before_its_results_file_is_not_streamed_again(tmp_path, monkeypatch):
    options = words(tmp_path, "TPT", "TRAINER.TPT.STREAM_LENGTH", "16")
    with monkeypatch.context() as patch:
        patch.setattr(StreamTrainer, "_conclude", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.main(options)
    monkeypatch.setattr("trainers.tpt.TPT.steps", lambda *_: 1 / 0)

    results = train.main(options)

    assert results["finished"] and left_behind(tmp_path) == []
    assert results["stream"] == {"images": 16, "of": 1280}


def test_a_finished_search_on_validation_images_is_not_streamed_again(tmp_path, monkeypatch):
    options = ["TRAINER.DMN.SETTING", "training_free", "TEST.SELECT_ON", "val"]
    whole = build(tmp_path / "whole", "DMN", *options)
    whole.train()
    killed = build(tmp_path / "killed", "DMN", *options)
    killed.keep_resume_file = True
    run_stream = killed.run_stream
    monkeypatch.setattr(
        killed, "run_stream", lambda split: run_stream(split) if split == "val" else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        killed.train()

    rest = build(tmp_path / "killed", "DMN", *options)
    steps, seen = rest.steps, []
    rest.steps = lambda views: [seen.append(len(views)), steps(views)][1]
    rest.train()

    assert sum(seen) == 30  # the test images alone
    assert rest.results == whole.results
    assert left_behind(tmp_path / "killed") == []


def test_the_time_before_an_interruption_counts(tmp_path):
    interrupt(build(tmp_path, "TPT"), chunk=2)
    path = tmp_path / "resume.stream_test.pth.tar"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"seconds": 1000.0}, path)

    rest = build(tmp_path, "TPT")
    rest.test_and_record()

    assert rest.test_seconds > 1000 and rest.elapsed_seconds() > 1000


def test_a_random_seed_is_kept_when_a_stream_goes_on(tmp_path):
    torch.manual_seed(5)
    random_seed = ["SEED", "-1"]
    interrupt(build(tmp_path, "TPT", *random_seed), chunk=2)
    torch.manual_seed(6)

    rest = build(tmp_path, "TPT", *random_seed)
    rest.test()

    assert json.loads((tmp_path / "stream_test.json").read_text())["seed"] == 5
    assert rest.run_seed == 5


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("TRAINER.TPT.LR", "0.1"), "TRAINER.TPT.LR was 0.005, now 0.1"),
        (("SEED", "2"), "SEED was 1, now 2"),
        (("TRAINER.TPT.STREAM_LENGTH", "28"), "STREAM_LENGTH was -1, now 28"),
    ],
)
def test_a_stream_of_another_config_is_not_continued(tmp_path, option, reason):
    interrupt(build(tmp_path, "TPT"), chunk=2)

    with pytest.raises(ValueError, match=reason):
        build(tmp_path, "TPT", *option).test()


def test_a_stream_of_another_model_or_of_other_images_is_not_continued(tmp_path):
    interrupt(build(tmp_path, "TPT"), chunk=2)
    changed, other = build(tmp_path, "TPT"), build(tmp_path, "TPT")
    changed.method.ctx[1] += 0.1
    items = other.dm.dataset.test
    other.dm.dataset._test = [items[-1], *items[1:-1], items[0]]

    with pytest.raises(ValueError, match="its tensor ctx differs.*Delete it to start over"):
        changed.test()
    with pytest.raises(ValueError, match="list of images.*Delete it to start over"):
        other.test()

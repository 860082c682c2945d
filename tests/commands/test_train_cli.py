"""train.py: the config it makes, what it refuses, what it writes."""

import contextlib
import json
import logging
import math
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import engine_toy
import pytest
import torch
from yacs.config import CfgNode as CN

import train
import trainers  # noqa: F401  (registers the trainers)
from dassl.config.settings import settings_digest
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.engine.command import cli
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.command.run import DRAWN_SEED_FILE, run
from dassl.engine.records import report
from dassl.engine.records.kept_predictions import keep_predictions
from dassl.evaluation.calibration import fit_temperature
from dassl.evaluation.predictions import ScoredImages, read_predictions
from dassl.utils import interrupts, load_checkpoint, only_writer
from tools.results.records import load_records
from tools.results.settings import settings_of

REPOSITORY = Path(train.__file__).parent
DATASET_YAML = """
DATASET:
  NAME: EngineColours
INPUT:
  SIZE: (8, 8)
"""
RECIPE_YAML = """
DATALOADER:
  NUM_WORKERS: 0
  TRAIN_X:
    BATCH_SIZE: 4
OPTIM:
  NAME: sgd
  LR: 0.01
  MAX_EPOCH: 2
"""


@TRAINER_REGISTRY.register()
class EngineDeclaring(engine_toy.EngineToy):
    """A trainer that declares keys in and outside TRAINER, and another engine default."""

    follows_backbone = ("SIZE",)

    @staticmethod
    def default_cfg():
        own = CN({"ALPHA": 0.5, "TaskRes": CN({"ENHANCED_BASE": "none"})})
        return CN({"TRAINER": own, "LOSS": CN({"GM": False}), "OPTIM": CN({"MAX_EPOCH": 7})})


@TRAINER_REGISTRY.register()
class EngineSelecting(engine_toy.EngineToy):
    """A trainer that reads labels to choose something while it is tested."""

    def labels_read(self, *, evaluates=False):
        return super().labels_read()


@pytest.fixture
def world(tmp_path):
    """Images and YAML files in a temporary folder."""
    engine_toy.make_images(tmp_path)
    (tmp_path / "colours.yaml").write_text(DATASET_YAML)
    (tmp_path / "fast.yaml").write_text(RECIPE_YAML)
    (tmp_path / "slow.yaml").write_text("OPTIM: {MAX_EPOCH: 9}\n")
    return tmp_path


def words(world, *more, output="run", trainer="EngineToy"):
    return [
        *("--root", str(world), "--trainer", trainer),
        *("--dataset-config-file", str(world / "colours.yaml")),
        *("--config-file", str(world / "fast.yaml"), "--output-dir", str(world / output)),
        *more,
    ]


def config(world, *more, **options):
    return make_config(make_parser().parse_args(words(world, *more, **options)))


def start(world, *more, **options):
    args = make_parser().parse_args(words(world, *more, **options))
    stdout = sys.stdout
    try:
        return run(args, make_config(args))
    finally:
        sys.stdout = stdout  # the log file's copy of stdout ends with the run


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------ config
def test_recipes_merge_in_order_and_flags_and_pairs_come_last(world):
    slow = str(world / "slow.yaml")

    assert config(world, "--config-file", slow).OPTIM.MAX_EPOCH == 9
    cfg = config(
        world, "--config-file", slow, "--seed", "0", "OPTIM.MAX_EPOCH", "4", "OPTIM.LR", "1"
    )
    assert (cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR, cfg.SEED) == (4, 1.0, 0)


def test_a_recipe_wins_over_the_dataset_file(world):
    (world / "colours.yaml").write_text(f"{DATASET_YAML}OPTIM: {{LR: 7.0, MOMENTUM: 0.5}}\n")

    cfg = config(world)

    assert (cfg.OPTIM.LR, cfg.OPTIM.MOMENTUM) == (0.01, 0.5)


def test_the_run_node_names_recipe_and_dataset_file(world):
    cfg = config(world, "--config-file", str(world / "slow.yaml"))

    assert (cfg.RUN.RECIPE, cfg.RUN.DATASET) == ("fast", "colours")


def test_keys_that_a_trainer_declares_belong_to_it_alone(world):
    cfg = config(world, trainer="EngineDeclaring")

    assert (cfg.TRAINER.ALPHA, cfg.LOSS.GM) == (0.5, False)
    assert "LOSS" not in config(world)


def test_a_declared_engine_default_gives_way_to_the_recipe(world):
    (world / "fast.yaml").write_text("OPTIM: {NAME: sgd}\n")

    assert config(world, trainer="EngineDeclaring").OPTIM.MAX_EPOCH == 7
    cfg = config(world, "--config-file", str(world / "slow.yaml"), trainer="EngineDeclaring")
    assert cfg.OPTIM.MAX_EPOCH == 9


def test_the_input_size_stays_open_for_trainers_that_follow_the_backbone(world):
    (world / "colours.yaml").write_text("DATASET: {NAME: EngineColours}\n")

    assert tuple(config(world, trainer="EngineDeclaring").INPUT.SIZE) == (0, 0)
    assert tuple(config(world).INPUT.SIZE) == (224, 224)
    explicit = config(world, "INPUT.SIZE", "(8, 8)", trainer="EngineDeclaring")
    assert tuple(explicit.INPUT.SIZE) == (8, 8)


def test_list_flags_reach_their_keys(world):
    flags = ("--source-domains", "a", "b", "--target-domains", "c", "--transforms", "random_flip")
    cfg = config(world, *flags, "--backbone", "RN50", "--skip-bad-images")

    assert tuple(cfg.DATASET.SOURCE_DOMAINS) == ("a", "b")
    assert tuple(cfg.DATASET.TARGET_DOMAINS) == ("c",)
    assert tuple(cfg.INPUT.TRANSFORMS) == ("random_flip",)
    assert cfg.MODEL.BACKBONE.NAME == "RN50" and cfg.DATALOADER.SKIP_BAD_IMAGES


def test_pairs_behind_a_flag_of_many_words_are_pairs(world):
    words = ("--target-domains", "Art.v2", "SEED", "LOSS.GM", "True", "OPTIM.LR", "0.5")

    cfg = config(world, *words, trainer="EngineDeclaring")

    assert tuple(cfg.DATASET.TARGET_DOMAINS) == ("Art.v2", "SEED")
    assert cfg.OPTIM.LR == 0.5 and cfg.LOSS.GM
    with pytest.raises(ValueError, match="config keys are given as KEY VALUE, OPTIM.LR 1"):
        config(world, "--target-domains", "Art.v2", "OPTIM.LR=1")


def test_a_recipe_starts_no_more_loader_processes_than_there_are_cores(world, monkeypatch):
    monkeypatch.setattr(cli, "available_cores", lambda: 2)
    (world / "many.yaml").write_text("DATALOADER: {NUM_WORKERS: 8}\n")
    recipe = ("--config-file", str(world / "many.yaml"))

    given = [
        config(world, *recipe, *pairs).DATALOADER.NUM_WORKERS
        for pairs in ((), ("DATALOADER.NUM_WORKERS", "6"), ("DATALOADER.SEEDING", "worker"))
    ]

    assert given == [2, 6, 8]  # a given number stays; with "worker" the number matters


@pytest.mark.parametrize(("seeding", "expected"), [("sample", 12), ("worker", 8)])
def test_workers_are_as_many_as_cores_where_their_number_changes_nothing(
    world, monkeypatch, seeding, expected
):
    monkeypatch.setattr(cli, "available_cores", lambda: 12)

    pairs = ("DATALOADER.NUM_WORKERS", "-1", "DATALOADER.SEEDING", seeding)

    assert expected == config(world, *pairs).DATALOADER.NUM_WORKERS


def test_the_enhanced_base_flag_sets_the_key_of_taskres(world):
    cfg = config(world, "--enhanced-base", "base.pt", trainer="EngineDeclaring")

    assert cfg.TRAINER.TaskRes.ENHANCED_BASE == "base.pt"
    with pytest.raises(ValueError, match="belongs to TaskRes"):
        config(world, "--enhanced-base", "base.pt")


def test_the_default_output_folder_follows_the_tree(world):
    args = make_parser().parse_args(words(world, "--seed", "3", "DATASET.NUM_SHOTS", "2"))
    args.output_dir = ""

    path = Path(make_config(args).OUTPUT_DIR)

    assert path == Path("output/fewshot/colours/EngineToy/fast_2shots/seed3")


@pytest.mark.parametrize(
    ("more", "trainer", "text"),
    [
        (("OPTIM.MAX_EPOK", "3"), "EngineToy", "OPTIM.MAX_EPOCH"),
        (("OPTIM.LR", "fast"), "EngineToy", "OPTIM.LR"),
        ((), "EngineTpy", '"EngineToy"'),
        (
            ("OPTIM.LR=1",),
            "EngineToy",
            "OPTIM.LR=1: config keys are given as KEY VALUE, OPTIM.LR 1",
        ),
        (
            ("OPTIM.LR=1", "--seed", "1"),
            "EngineToy",
            "OPTIM.LR=1: config keys are given as KEY VALUE, OPTIM.LR 1",
        ),
        (
            ("OPTIM.LR", "1", "--seed", "1"),
            "EngineToy",
            "--seed must come before the KEY VALUE pairs",
        ),
        (("--config-file", "fsat.yaml"), "EngineToy", "no such file"),
    ],
)
def test_a_typo_gets_an_answer_that_helps(world, more, trainer, text):
    with pytest.raises((KeyError, ValueError, FileNotFoundError), match=text):
        config(world, *more, trainer=trainer)


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (["OPTIM.MAX_EPOCH", "-3"], "MAX_EPOCH is -3; expected at least 0"),
        (["OPTIM.LR", "1e999"], "LR is inf; expected a finite number"),
    ],
)
def test_a_number_that_no_run_can_use_is_refused_with_the_command_line(world, pair, text):
    with pytest.raises(ValueError, match=text):
        config(world, *pair)


def test_an_unknown_dataset_name_gets_a_suggestion():
    args = make_parser().parse_args(["--trainer", "EngineToy", "--dataset", "oxford_pet"])

    with pytest.raises(ValueError, match="oxford_pets"):
        make_config(args)


def test_without_a_dataset_the_embedded_one_is_used_and_said(caplog):
    args = make_parser().parse_args(["--trainer", "EngineToy"])

    with caplog.at_level(logging.INFO):
        path = cli.find_dataset_yaml(args)

    assert path.stem == "toy_objects" and "embedded toy_objects" in caplog.text


def test_a_trainer_without_recipes_is_told_of_and_so_are_the_defaults_that_it_brings(caplog):
    args = make_parser().parse_args(["--trainer", "EngineDeclaring", "--dataset", "eurosat"])

    with caplog.at_level(logging.INFO):
        make_config(args)

    assert caplog.messages == [
        "EngineDeclaring has no recipe: settings are the engine's defaults (but OPTIM.MAX_EPOCH: "
        "those of the trainer)."
    ]


def test_no_trainer_lists_the_trainers(world):
    with pytest.raises(ValueError, match=r"Use --trainer NAME\. Known: .*EngineToy"):
        config(world, trainer="")


# ------------------------------------------------------------------ runs
def test_a_run_leaves_config_log_metrics_results_and_checkpoint(world, capsys):
    results = start(world, "--seed", "1")

    folder = world / "run"
    assert results == read(folder / "results.json")
    assert results["finished"] and results["epoch"] == 2 and results["selection"] == "last"
    assert set(results["metrics"]["test"]) >= {"accuracy", "error_rate", "macro_f1"}
    assert results["labelled_images"] == {"train": 12, "val": 0}
    assert results["precision"] == "own"  # a trainer that TRAIN.PRECISION does not reach
    assert results["trainable_parameters"] == results["total_parameters"] == 3 * 8 * 8 * 3 + 3
    assert len(results["fewshot_digest"]) == 64 and results["versions"]["torch"]
    written = {"config.yaml", "log.txt", "metrics.jsonl", "results.json", "toy/model.pth.tar-2"}
    assert written <= set(results["files"])
    log = (folder / "log.txt").read_text()
    assert "** Arguments **" in log and "Finish training" in log and "* accuracy: " in log
    assert "** System info **" in log and "Loading dataset" in log
    console = capsys.readouterr().out  # beside it, what was logged: the banner, ten lines
    assert len(console[: console.index("epoch [1/2]")].splitlines()) <= 3
    assert "Finish training" in console and "* accuracy: " in console
    assert not list(folder.glob("resume*"))


def test_settings_that_a_trainer_refuses_leave_no_folder(tmp_path):
    words = ["--trainer", "CoOp", "--dataset", "toy_layout", "--template", "sentences.txt"]

    with pytest.raises(ValueError, match="exactly one .* There is no file of that name, either"):
        train.main([*words, "--output-dir", str(tmp_path / "run")])

    assert not (tmp_path / "run").exists()


def test_a_run_whose_images_cannot_be_read_leaves_nothing(world, monkeypatch):
    monkeypatch.setattr(cli.TRAINER_REGISTRY.get("EngineToy"), "build_data_loader", raise_wrong)
    (world / "mine").mkdir()
    (world / "mine" / "log.txt").write_text("of another program", encoding="utf-8")
    before = {*world.rglob("*")}

    for output in ("new/deep/run", "mine"):
        with pytest.raises(ValueError, match="wrong"):
            start(world, output=output)

    assert {*world.rglob("*")} == before


@pytest.fixture
def few_images_tell_a_temperature(monkeypatch):
    """All of this world's few validation images are right: what they ask for is at the bound."""
    monkeypatch.setattr("dassl.engine.records.kept_predictions.INNER_RANGE", (0.0, math.inf))


def test_a_run_keeps_predictions_and_the_temperature_that_validation_images_ask_for(
    world, few_images_tell_a_temperature
):
    results = start(world, "--seed", "1")

    kept = read_predictions(world / "run")
    test = kept.splits["test"]
    assert 100 * (test.predicted == test.labels).mean() == results["metrics"]["test"]["accuracy"]
    assert test.images[0] == "colours/test/blue_0.png" and kept.classnames[2] == "blue"
    assert (Path(kept.folder) / test.images[0]).is_file()
    assert results["calibration"] == {"temperature": kept.temperature, "images": 12}
    assert kept.temperature == fit_temperature(kept.splits["val"].logits, kept.splits["val"].labels)
    assert results["tested_images"] == {"test": 12}


def test_an_evaluation_takes_the_temperature_of_the_training(world, few_images_tell_a_temperature):
    trained = start(world, "--seed", "1")

    words = ("--eval-only", "--model-dir", str(world / "run"), "--load-epoch", "2")
    results = start(world, *words, output="again")

    assert results["calibration"] == trained["calibration"]
    assert list(read_predictions(world / "again").splits) == ["test"]


def test_validation_images_that_are_test_images_give_no_temperature(world):
    trainer = build_trainer(config(world))
    paths = [item.impath for item in trainer.dm.dataset.test]
    scored = ScoredImages([torch.eye(3).repeat(4, 1)], [torch.arange(3).repeat(4)], paths)
    trainer.scored = {"test": scored, "val": scored}

    found = keep_predictions(trainer, world / "predictions.npz")

    assert found == {"temperature": None, "reason": "the validation images are test images"}


def test_the_results_name_the_commit_of_the_source(world):
    state = report.source_state()

    assert state == {} or (len(state["commit"]) == 40 and state["dirty"] in (True, False))
    assert start(world, "--seed", "1")["source_code"] == state


def test_a_finished_run_is_not_repeated(world, caplog):
    first = start(world, "--seed", "1")
    before = (world / "run" / "results.json").stat().st_mtime_ns

    with caplog.at_level(logging.INFO):
        again = start(world, "--seed", "1")

    assert again == first and "This run is finished" in caplog.text
    assert (world / "run" / "results.json").stat().st_mtime_ns == before


def test_a_folder_of_another_config_is_refused_naming_the_keys(world):
    start(world, "--seed", "1")

    with pytest.raises(ValueError, match=r"OPTIM\.LR was 0\.01, now 0\.5.*--output-dir"):
        start(world, "--seed", "1", "OPTIM.LR", "0.5")


def test_paths_and_workers_are_no_reason_to_refuse(world):
    first = start(world, "--seed", "1")

    assert start(world, "--seed", "1", "DATALOADER.NUM_WORKERS", "3", "VERBOSE", "False") == first


def test_runs_record_the_digest_of_what_config_yaml_holds(world):
    one, two = (start(world, "--seed", seed, output=f"run{seed}") for seed in "12")
    other = start(world, "--seed", "1", "OPTIM.LR", "0.5", output="other")
    evaluation = ("--eval-only", "--model-dir", str(world / "other"), "--load-epoch", "2")
    evaluated = start(world, "--seed", "1", *evaluation, output="eval")

    runs = {"run1": one, "run2": two, "other": other, "eval": evaluated}
    digests = {name: results["settings_digest"] for name, results in runs.items()}
    assert digests["run1"] == digests["run2"] != digests["other"] == digests["eval"]
    for record in load_records([world / name for name in digests]).records:
        assert settings_digest(settings_of(record)) == record.settings_digest


def test_evaluation_gives_the_accuracy_of_the_run_and_trains_nothing(world):
    trained = start(world, "--seed", "1")
    flags = ("--seed", "1", "--eval-only", "--model-dir", str(world / "run"), "--load-epoch", "2")

    results = start(world, *flags, output="eval")

    assert results["metrics"]["test"] == trained["metrics"]["test"]
    assert results["source"] == "colours" and results["seconds"]["train"] == 0
    assert not (world / "eval" / "toy").exists()


@pytest.mark.parametrize(("trainer", "rule"), [("EngineToy", "last"), ("EngineSelecting", "test")])
def test_test_labels_that_choose_in_an_evaluation_are_named(world, trainer, rule):
    start(world, "--seed", "1", trainer=trainer)
    flags = ("--eval-only", "--model-dir", str(world / "run"), "--load-epoch", "2")

    results = start(
        world, "--seed", "1", *flags, "TEST.SELECT_ON", "test", output="eval", trainer=trainer
    )

    assert results["selection"] == rule
    assert results["labelled_images"] == {"train": 12, "val": 0}


def test_evaluation_in_the_training_folder_keeps_the_training_results(world):
    trained = start(world, "--seed", "1")

    start(
        world, "--seed", "1", "--eval-only", "--model-dir", str(world / "run"), "--load-epoch", "2"
    )

    assert read(world / "run" / "results.json") == trained
    assert (world / "run" / "results_eval.json").is_file()


def test_evaluation_without_a_model_folder_is_refused(world):
    with pytest.raises(ValueError, match="--eval-only needs --model-dir"):
        start(world, "--eval-only")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--model-dir", "a"], r"--model-dir a has no effect without --eval-only.*INIT_WEIGHTS"),
        (["--load-epoch", "0"], "--load-epoch 0 has no effect without --model-dir"),
        (["--eval-only", "--load-epoch", "2"], "--load-epoch 2 has no effect without --model-dir"),
        (["--model-dir", "a", "--load-epoch", "2"], "--model-dir a has no effect without"),
        (["--eval-only", "--no-train"], "--no-train has no effect beside --eval-only"),
        (["--eval-only", "--resume", "a"], "--resume a has no effect beside --eval-only"),
        (["--no-train", "--resume", "a"], "--resume a has no effect beside --no-train"),
        (["--trainer", "CoOp", "TRAINER.NAME", "MMA"], "CoOp and TRAINER.NAME MMA: give one"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused_with_what_to_do(world, flags, text):
    with pytest.raises(ValueError, match=text):
        config(world, *flags)


def test_of_a_key_that_is_given_twice_the_value_that_holds_is_named(world, caplog):
    given = ("--seed", "1", "--backbone", "RN50", "MODEL.BACKBONE.NAME", "RN50", "SEED", "2")

    assert config(world, *given, "OPTIM.LR", "0.1", "OPTIM.LR", "0.2").OPTIM.LR == 0.2

    named = [text for text in caplog.messages if "given twice" in text]
    assert named == [
        "SEED is given twice: 2 holds, 1 does not.",
        "OPTIM.LR is given twice: 0.2 holds, 0.1 does not.",
    ]


@pytest.mark.parametrize(
    ("trainer", "flags"),
    [
        ("CoOp", ["--head", "mlp"]),
        ("MMA", ["--head", "mlp"]),
        ("ERM", ["--head", "mlp"]),
        ("VL2VADiP", ["--head", "mlp"]),
        ("ZeroshotCLIP", ["--transforms", "random_flip"]),
        ("ZeroshotCLIP2", ["--model-dir", "a", "--eval-only"]),
        ("DMN", ["--transforms", "random_flip"]),
        ("TPT", ["--transforms", "random_flip"]),
        ("TPT", ["--resume", "a"]),
        ("ZeroshotCLIP", ["--resume", "a"]),
        ("LinearProbe", ["--transforms", "random_flip"]),
        ("TaskResBase", ["--enhanced-base", "a"]),
    ],
)
def test_a_flag_that_a_trainer_does_not_read_is_refused(world, trainer, flags):
    with pytest.raises(ValueError, match=rf"{flags[0]} \S+ has no effect with {trainer}: .*Leave"):
        config(world, *flags, trainer=trainer)


def test_every_flag_that_a_trainer_does_not_read_exists():
    known = make_parser().flags

    for name in TRAINER_REGISTRY.registered_names():
        assert set(TRAINER_REGISTRY.get(name).unused_flags) <= set(known), name


def test_a_resumed_run_that_was_interrupted_again_says_where_it_goes_on(world, caplog):
    start(world, output="a")
    trainer = build_trainer(config(world, "--resume", str(world / "a"), output="b"))
    trainer.max_epoch = 3
    trainer.before_train()
    trainer._resume_file.save(trainer, 2, force=True)
    trainer.close_writer()

    with caplog.at_level(logging.INFO):
        again = build_trainer(config(world, "--resume", str(world / "a"), output="b"))
        again.before_train()
        again.close_writer()

    assert "is not needed: resuming the interrupted run here" in caplog.text


def test_evaluation_of_a_missing_folder_is_refused(world):
    with pytest.raises(FileNotFoundError, match="--model-dir nowhere"):
        start(world, "--eval-only", "--model-dir", "nowhere")


def test_a_run_killed_before_its_results_file_is_completed_without_training_again(world):
    start(world, "--seed", "1")
    checkpoint = world / "run" / "toy" / "model.pth.tar-2"
    before = checkpoint.stat().st_mtime_ns
    (world / "run" / "results.json").unlink()

    results = start(world, "--seed", "1")

    assert results["finished"] and results["epoch"] == 2
    assert checkpoint.stat().st_mtime_ns == before


def test_no_train_builds_everything_and_trains_nothing(world):
    assert start(world, "--no-train") is None
    assert not (world / "run" / "toy").exists()


def test_the_same_seed_gives_the_same_run(world):
    first, second = (start(world, "--seed", "0", output=name) for name in "ab")

    assert first["metrics"] == second["metrics"]
    assert first["fewshot_digest"] == second["fewshot_digest"]


# ------------------------------------------------------------------ process
def test_a_foreign_package_of_the_same_name_is_refused_with_its_path(tmp_path, monkeypatch):
    foreign = tmp_path / "clip"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("")
    monkeypatch.setattr(train, "PACKAGES", ("clip",))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == "clip"]:
        monkeypatch.delitem(sys.modules, name)

    with pytest.raises(ImportError, match=str(foreign)):
        train.check_packages()


def test_a_folder_of_ones_own_images_is_told_from_another(world, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine_toy.EngineColours, "root_is_the_set", True, raising=False)
        patch.chdir(world)
        start(world, "--root", ".")
    shutil.copytree(world / "colours", world / "moved" / "colours")
    moved = ("--root", str(world / "moved"))

    assert start(world, *moved)["finished"]  # one dataset that was moved
    monkeypatch.setattr(engine_toy.EngineColours, "root_is_the_set", True, raising=False)
    assert start(world)["finished"]  # the same folder, called from elsewhere
    with pytest.raises(ValueError, match=rf"DATASET\.ROOT was '{world}', now '{world}/moved'"):
        start(world, *moved)


def test_a_run_that_another_process_does_is_waited_for_and_not_repeated(world, monkeypatch, caplog):
    whole = start(world, output="whole")
    other = contextlib.ExitStack()
    other.enter_context(only_writer(world / "run"))

    def other_ends(seconds):
        shutil.copytree(world / "whole", world / "run", dirs_exist_ok=True)
        other.close()

    monkeypatch.setattr("dassl.utils.locks.time.sleep", other_ends)
    with caplog.at_level(logging.INFO):
        results = start(world)

    assert results == whole
    assert "Waiting for another process" in caplog.text and "finished" in caplog.text


@pytest.mark.parametrize(
    "more", [(), ("--eval-only", "--load-epoch", "2", "--model-dir", "{world}/trained")]
)
def test_a_run_that_failed_at_its_start_leaves_the_folder_free(world, monkeypatch, more):
    start(world, output="trained")
    more = [word.format(world=world) for word in more]

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="wrong"):
        patch.setattr(cli.TRAINER_REGISTRY.get("EngineToy"), "load_model", raise_wrong)
        patch.setattr(cli.TRAINER_REGISTRY.get("EngineToy"), "before_train", raise_wrong)
        start(world, *more, "OPTIM.LR", "0.1")
    results = start(world, *more, "OPTIM.LR", "0.2")

    assert results["finished"] and "LR: 0.2" in (world / "run" / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"OPTIM\.LR was 0\.2, now 0\.1"):
        start(world, *more, "OPTIM.LR", "0.1")


def raise_wrong(*arguments, **keywords):
    raise ValueError("wrong")


def test_a_run_with_a_random_seed_goes_on_with_the_seed_that_it_drew(world, monkeypatch):
    monkeypatch.setenv("VLTUNE_RESUME_SECONDS", "0")
    words = ("DATASET.NUM_SHOTS", "2", "OPTIM.MAX_EPOCH", "3")
    whole = start(world, *words, output="whole")
    (world / "cut").mkdir()
    shutil.copy(world / "whole" / DRAWN_SEED_FILE, world / "cut")
    before_epoch = engine_toy.EngineToy.before_epoch

    def interrupt(trainer):
        before_epoch(trainer)
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine_toy.EngineToy, "before_epoch", interrupt)
        start(world, *words, output="cut")
    cut = start(world, *words, output="cut")
    other = start(world, *words, output="other")

    weights = [
        load_checkpoint(str(world / name / "toy" / "model.pth.tar-3"))["state_dict"]
        for name in ("whole", "cut", "other")
    ]
    assert cut["seed"] == -1 and cut["fewshot_digest"] == whole["fewshot_digest"]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])
    assert (world / "other" / DRAWN_SEED_FILE).read_text() != (
        world / "cut" / DRAWN_SEED_FILE
    ).read_text()
    assert DRAWN_SEED_FILE in other["files"]


def test_a_warning_of_another_package_takes_one_line():
    text = train.warning_text(UserWarning("Take\n  care."), UserWarning, "a.py", 7)

    assert text == "Take care. (UserWarning, a.py:7)"


def test_a_wrong_command_line_ends_with_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, str(REPOSITORY / "train.py"), "--trainer", "TaskRez"]

    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 2
    assert "TaskRes" in done.stderr and "Traceback" not in done.stderr


def exit_status(monkeypatch, *words):
    """What `python train.py WORDS` ends with, in this process; it logs as the command does."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "argv", [str(REPOSITORY / "train.py"), *words])
    with interrupts.watching(), pytest.raises(SystemExit) as ended:  # takes handlers back
        runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
    logging.captureWarnings(False)
    return ended.value.code


def test_weights_that_cannot_be_read_end_with_the_reason_and_where_it_was_raised(
    monkeypatch, capsys, tmp_path
):
    (tmp_path / "weights.pt").write_text("no weights")
    monkeypatch.chdir(tmp_path)

    status = exit_status(
        monkeypatch, "--trainer", "TaskRes", "--backbone", str(tmp_path / "weights.pt")
    )

    said = capsys.readouterr().err
    assert status == 2 and "Traceback" not in said
    assert f"ERROR: {tmp_path}/weights.pt " in said
    where = r"\(raised at clip/\w+\.py:\d+; set VLTUNE_TRACEBACK=1 for the full traceback\)"
    assert re.fullmatch(where, said.splitlines()[-1])


@pytest.mark.parametrize("place", ["importlib.util.find_spec", "dassl.engine.command.run.run"])
def test_ctrl_c_ends_with_one_line_and_no_traceback(place, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)

    status = exit_status(monkeypatch, "--trainer", "TaskRes")

    said = capsys.readouterr().err
    assert status == 130
    assert "Interrupted" in said and "Traceback" not in said


def test_an_installation_without_configs_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "CONFIGS", tmp_path / "configs")
    args = make_parser().parse_args(["--dataset", "dtd"])

    with pytest.raises(FileNotFoundError, match="this installation is incomplete. Install again"):
        cli.find_dataset_yaml(args)


def test_the_recorded_command_can_be_pasted(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--output-dir", "my runs/a"])

    assert report.command_line().endswith("train.py --output-dir 'my runs/a'")

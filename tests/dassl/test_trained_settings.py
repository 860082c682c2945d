"""An evaluation takes the settings of its checkpoint; others are refused, or named where meant."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from few_shot_world import make_world
from step_world import make_domains, step_args, step_run
from yacs.config import CfgNode

import datasets  # noqa: F401  (registers the datasets)
import trainers  # noqa: F401  (registers the trainers)
from dassl.config import get_cfg_default, leaves, merge_declared
from dassl.config.declared import varying_names
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.command.run import run
from dassl.engine.settings import trained
from dassl.utils import load_checkpoint, write_checkpoint

RECIPE = """
INPUT: {TRANSFORMS: [random_resized_crop], INTERPOLATION: bicubic}
DATALOADER: {NUM_WORKERS: 0, TRAIN_X: {BATCH_SIZE: 8}}
OPTIM: {NAME: adamw, MAX_EPOCH: 1}
TRAIN: {VIEWS: bank, NUM_VIEWS: 1}
TRAINER: {AMU: {ALPHA: 1.0}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images, YAML files, and AMU trained with ALPHA 2.0 and UNCENT_POWER 0.3."""
    root = make_world(tmp_path_factory.mktemp("trained"))
    (root / "squares.yaml").write_text("DATASET: {NAME: FewShotSquares}\n")
    (root / "recipe.yaml").write_text(RECIPE)
    start(root, "run", "--backbone", str(root / "tiny.pt"), *TRAINED)
    return root


TRAINED = ["TRAINER.AMU.ALPHA", "2.0", "TRAINER.AMU.UNCENT_POWER", "0.3"]


def config(root, output, *more):
    """(arguments, config) of a command line; the auxiliary is the tiny backbone's own tower."""
    words = ["--root", str(root), "--trainer", "AMU", "--seed", "1", *more]
    flags = ["--dataset-config-file", str(root / "squares.yaml")]
    flags += ["--config-file", str(root / "recipe.yaml"), "--output-dir", str(root / output)]
    pairs = ["TRAINER.AMU.AUX", f"clip:{root / 'tiny.pt'}"]
    args = make_parser().parse_args([*flags, *words, *pairs])
    return args, make_config(args)


def start(root, output, *more):
    stdout = sys.stdout
    try:
        return run(*config(root, output, *more))
    finally:
        sys.stdout = stdout  # the log file's copy of stdout ends with the run


def evaluation(root, *more):
    return "--eval-only", "--model-dir", str(root / "run"), *more


# ------------------------------------------------------------------ the command line
def test_settings_that_an_evaluation_does_not_give_are_those_of_the_training(world, caplog):
    with caplog.at_level("INFO"):
        _, cfg = config(world, "same", *evaluation(world))

    assert (cfg.TRAINER.AMU.ALPHA, cfg.TRAINER.AMU.UNCENT_POWER) == (2.0, 0.3)
    assert str(world / "tiny.pt") == cfg.MODEL.BACKBONE.NAME
    assert "Settings of the checkpoint hold: MODEL.BACKBONE.NAME" in caplog.text
    assert "TRAINER.AMU.ALPHA 2.0" in caplog.text


def test_a_training_takes_nothing_from_a_checkpoint(world):
    _, cfg = config(world, "other")

    assert cfg.TRAINER.AMU.ALPHA == 1.0


def test_an_evaluation_gives_the_number_of_its_training(world):
    trained_results = json.loads((world / "run" / "results.json").read_text())

    results = start(world, "plain", *evaluation(world))

    assert results["metrics"]["test"] == trained_results["metrics"]["test"]
    assert not {"varied_at_test", "untrained_classes"} & set(results)


def test_another_value_on_the_command_line_is_refused_with_both_named(world):
    with pytest.raises(ValueError, match=r"trained with TRAINER\.AMU\.UNCENT_POWER 0\.3, not 0\.9.*"
                       r"may be varied at test time: ALPHA, AUX"):  # fmt: skip
        config(world, "refused", *evaluation(world, "TRAINER.AMU.UNCENT_POWER", "0.9"))


def test_the_value_of_the_training_may_be_given_again(world):
    _, cfg = config(world, "again", *evaluation(world, "TRAINER.AMU.UNCENT_POWER", "0.3"))

    assert cfg.TRAINER.AMU.UNCENT_POWER == 0.3


def test_what_is_meant_to_be_varied_is_used_and_named_in_the_results(world):
    results = start(world, "varied", *evaluation(world, "TRAINER.AMU.ALPHA", "0"))

    assert results["varied_at_test"] == {"TRAINER.AMU.ALPHA": {"trained": 2.0, "tested": 0.0}}


def test_the_number_of_shots_is_that_of_the_training(world):
    with pytest.raises(ValueError, match=r"trained with DATASET\.NUM_SHOTS -1, not 3"):
        config(world, "shots", *evaluation(world, "DATASET.NUM_SHOTS", "3"))


def test_the_seed_is_that_of_the_training_unless_another_is_given(world):
    flags = ["--dataset-config-file", str(world / "squares.yaml"), "--root", str(world)]
    words = [*flags, "--trainer", "AMU", *evaluation(world)]

    seeds = [
        make_config(make_parser().parse_args(w)).SEED for w in (words, [*words, "--seed", "2"])
    ]

    assert seeds == [1, 2]


def test_what_only_a_training_reads_is_named_where_it_differs_from_the_models(world, caplog):
    lr, epochs = ("OPTIM.LR", "0.5"), ("OPTIM.MAX_EPOCH", "1")  # the second one is the training's

    start(world, "late", *evaluation(world, *lr, *epochs, "TEST.SELECT_ON", "val"))

    none = "has no effect: an evaluation trains nothing; the model was trained with"
    assert f"OPTIM.LR 0.5 {none} 0.0003" in caplog.text
    assert f"TEST.SELECT_ON 'val' {none} 'last'" in caplog.text
    assert f"OPTIM.MAX_EPOCH 1 {none}" not in caplog.text


def test_a_training_does_not_resume_from_checkpoints_of_other_settings(world):
    flags = ("--resume", str(world / "run"), "--backbone", str(world / "tiny.pt"))
    resumed = (*flags, "OPTIM.MAX_EPOCH", "2")

    with pytest.raises(ValueError, match=r"trained with TRAINER\.AMU\.UNCENT_POWER 0\.3, not 0\.9"):
        start(world, "mixed", *resumed, *TRAINED[:2], "TRAINER.AMU.UNCENT_POWER", "0.9")
    with pytest.raises(ValueError, match="was trained with OPTIM.NAME adamw, not sgd"):
        start(world, "other", *resumed, *TRAINED, "OPTIM.NAME", "sgd")
    assert start(world, "longer", *resumed, *TRAINED)["epoch"] == 2


def test_a_moved_backbone_is_known_by_its_weights_and_another_is_refused(world):
    shutil.copy(world / "tiny.pt", world / "moved.pt")
    weights = torch.load(world / "tiny.pt", weights_only=True)
    weights["visual.proj"] = weights["visual.proj"] * 2
    torch.save(weights, world / "other.pt")

    moved = start(world, "moved", *evaluation(world, "--backbone", str(world / "moved.pt")))

    assert set(moved["varied_at_test"]) == {"MODEL.BACKBONE.NAME"}
    with pytest.raises(ValueError, match="trained on the backbone .*tiny.pt.* with other weights"):
        start(world, "else", *evaluation(world, "--backbone", str(world / "other.pt")))


def test_a_checkpoint_without_config_leaves_the_settings_to_the_command_line(world):
    shutil.copytree(world / "run" / "amu", world / "official" / "amu")
    path = world / "official" / "amu" / "model.pth.tar-1"
    content = load_checkpoint(path)
    write_checkpoint({"state_dict": content["state_dict"]}, path)

    _, cfg = config(world, "x", "--eval-only", "--model-dir", str(world / "official"))

    assert cfg.TRAINER.AMU.ALPHA == 1.0


def test_a_student_is_tested_at_the_size_that_it_was_trained_with(tmp_path):
    root = make_domains(tmp_path / "domains", per_class=5)
    step_run(root, tmp_path / "run", "LP", "INPUT.SIZE", "(40, 40)", "STEPS.N", "4")
    flags = ["--eval-only", "--model-dir", str(tmp_path / "run")]

    def sized(*pairs):
        words = step_args(root, tmp_path / "eval", "LP", *pairs)
        return make_config(make_parser().parse_args([*flags, *words])).INPUT.SIZE

    assert tuple(sized()) == (40, 40)
    with pytest.raises(ValueError, match=r"INPUT\.SIZE \[40, 40\], not \[48, 48\]"):
        sized("INPUT.SIZE", "(48, 48)")


# ------------------------------------------------------------------ every trainer
def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}x" if isinstance(value, str) else [*value, 1]


def own_config(name) -> CfgNode:
    cfg = get_cfg_default()
    trainer = TRAINER_REGISTRY.get(name)
    if hasattr(trainer, "default_cfg"):
        merge_declared(cfg, trainer.default_cfg())
    cfg.TRAINER.NAME = trainer.checkpoint_writer().__name__
    return cfg


OURS = sorted(
    name
    for name in TRAINER_REGISTRY.registered_names()
    if TRAINER_REGISTRY.get(name).__module__.startswith("trainers.")
)


@pytest.mark.parametrize("name", OURS)
def test_every_own_setting_of_a_trainer_holds_or_is_declared_to_vary(name):
    writer = TRAINER_REGISTRY.get(name).checkpoint_writer()
    cfg = own_config(name)
    keys = [key for key, _ in leaves(cfg) if key.startswith("TRAINER.") and key != "TRAINER.NAME"]

    for key in keys:
        changed = cfg.clone()
        node = changed
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = other(node[last])
        found = trained.differences(changed, cfg, writer)
        if last in writer.about_one_run:
            assert not found, key
            continue
        assert list(found) == [key]
        if last not in varying_names(writer):
            with pytest.raises(ValueError, match=f"was trained with {key} "):
                trained.check_settings(found, writer, Path("x"))
        else:
            trained.check_settings(found, writer, Path("x"))


@pytest.mark.parametrize("name", OURS)
def test_what_a_trainer_declares_to_vary_exists(name):
    writer = TRAINER_REGISTRY.get(name).checkpoint_writer()
    keys = [key for key, _ in leaves(own_config(name))]
    known = {*keys, *(key.rsplit(".", 1)[-1] for key in keys if key.startswith("TRAINER."))}

    assert writer.about_one_run <= known
    assert varying_names(writer) - {"PREC"} <= known  # some CLIP trainers have no precision


def test_the_checkpoint_of_another_trainer_is_refused():
    cfg = own_config("KgCoOp")

    with pytest.raises(ValueError, match="x was trained by KgCoOp, .* --trainer KgCoOp"):
        trained.check_same_trainer(TRAINER_REGISTRY.get("CoOp"), cfg, Path("x"))
    for name, other_name in (("VL2VADiP", "VL2VDistill"), ("MMA", "MultiModalAdapter")):
        writer = TRAINER_REGISTRY.get(name).checkpoint_writer()
        trained.check_same_trainer(writer, own_config(other_name), Path("x"))


def test_an_evaluation_of_dmn_searches_by_the_rule_of_its_training_unless_another_is_given():
    cfg, old = own_config("DMN"), own_config("DMN")
    old.TEST.SELECT_ON, old.TRAIN.VIEWS = "val", "bank"
    writer = TRAINER_REGISTRY.get("DMN")

    found = trained.differences(cfg, old, writer)

    assert found == {"TEST.SELECT_ON": ("last", "val"), "TRAIN.VIEWS": ("fresh", "bank")}
    trained.check_settings(found, writer, Path("x"))  # both may be varied


def test_a_student_is_tested_with_the_sentences_and_the_held_out_images_of_its_training():
    cfg, old = own_config("ERM"), own_config("ERM")
    old.DATASET.HOLDOUT, old.DATASET.TRIAL_SEED, old.DATASET.TEMPLATES = 0.4, 3, ("a {}.",)
    writer = TRAINER_REGISTRY.get("ERM")

    found = trained.differences(cfg, old, writer)

    assert set(found) == {"DATASET.HOLDOUT", "DATASET.TRIAL_SEED", "DATASET.TEMPLATES"}
    with pytest.raises(ValueError, match="HOLDOUT 0.4, not 0.2"):
        trained.check_settings(found, writer, Path("x"))


def test_sentences_of_another_dataset_do_not_hold():
    cfg, old = own_config("CoOp"), own_config("CoOp")
    old.DATASET.TEMPLATES, old.DATASET.NAME = ("a {}, a pet.",), "OxfordPets"
    cfg.DATASET.NAME = "OxfordPets"
    writer = TRAINER_REGISTRY.get("CoOp")

    assert list(trained.differences(cfg, old, writer)) == ["DATASET.TEMPLATES"]
    cfg.DATASET.NAME = "Food101"
    assert not trained.differences(cfg, old, writer)


def test_keys_of_another_version_are_left_alone():
    cfg, old = own_config("AMU"), own_config("AMU")
    cfg.TRAINER.AMU.NEW, old.TRAINER.AMU.GONE = 1, 2

    assert not trained.differences(cfg, old, TRAINER_REGISTRY.get("AMU"))


def test_classes_that_the_training_did_not_have_are_counted():
    trainer = SimpleNamespace(
        loaded_checkpoint={"classnames": ["cat", "dog"]}, lab2cname={0: "dog", 1: "fox"}
    )

    assert trained.untrained_classes(trainer) == ["fox"]
    trainer.loaded_checkpoint = {}  # an official file names no classes
    assert trained.untrained_classes(trainer) == []


def test_flags_that_set_a_key_count_as_given():
    args = make_parser().parse_args(["--trainer", "TaskRes", "--backbone", "RN50", "OPTIM.LR", "1"])

    assert set(trained.keys_on_the_command_line(args)) == {"OPTIM.LR", "MODEL.BACKBONE.NAME"}

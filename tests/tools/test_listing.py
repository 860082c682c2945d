"""`train.py --list`: what there is, as plain text."""

import re

import pytest
import yaml

import tools.listing
from dassl.config.files import CONFIGS, config_names
from tools.listing import listing, settings
from train import main

RECIPES = sorted(
    f"{folder.name}/{name}"
    for folder in (CONFIGS / "trainers").iterdir()
    for name in config_names(folder)
)


def test_train_py_prints_the_list_and_trains_nothing(capsys):
    assert main(["--list", "recipes"]) is None

    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("MMA ")] == [
        "MMA                toy, vit_b16_ep5, vit_b16_ep5_imagenet, vit_b16_xd"
    ]


def test_a_flag_beside_list_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--list", "trainers", "--seed", "3"])

    assert "--seed: no effect beside --list" in capsys.readouterr().err


def test_trainers_are_listed_with_what_they_do():
    lines = listing("trainers").splitlines()

    assert any(
        re.match("MMA +Trains the adapters of both towers by cross-entropy", line) for line in lines
    )


def test_a_trainer_is_shown_with_its_keys_their_defaults_and_meaning():
    lines = listing("trainers:TaskRes").splitlines()

    assert lines[0] == "TaskRes: Trains the residual of the base classifier by cross-entropy."
    (line,) = (line for line in lines if line.startswith("TRAINER.TaskRes.RESIDUAL_SCALE "))
    assert line.split()[1:3] == ["1.0", "alpha;"]


def test_datasets_are_listed_with_their_class_and_shown_with_their_settings():
    lines = listing("datasets").splitlines()

    assert [line.split()[0] for line in lines if not line.startswith(" ")] == config_names(
        CONFIGS / "datasets"
    )
    about, setting = listing("datasets:oxford_pets").splitlines()
    assert about.startswith("oxford_pets: OxfordPets: 37 breeds of cats and dogs")
    assert setting == "DATASET.NAME  'OxfordPets'"


def test_a_dataset_config_whose_class_is_missing_is_listed_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(tools.listing, "CONFIGS", tmp_path)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mine.yaml").write_text("DATASET: {NAME: Mine}\n")

    assert listing("datasets").split() == ["mine", "Mine", "(not", "registered)"]


def test_backbones_are_listed_with_the_forms_that_names_take():
    text = listing("backbones")

    for name in ("ViT-B/16", "toy/ViT", "open_clip:<architecture>", "timm:<model>.<tag>", "vits"):
        assert name in text
    assert all("RN50" in line or "rn50" in line for line in listing("backbones:rn50").splitlines())


def test_a_trainer_s_recipes_are_shown_as_they_are_written():
    text = (CONFIGS / "trainers" / "TaskRes" / "recipes.yaml").read_text()

    assert listing("recipes:TaskRes") == f"# configs/trainers/TaskRes/recipes.yaml\n{text.rstrip()}"


def test_every_recipe_is_shown_as_a_config_file_that_says_the_same(tmp_path):
    for number, name in enumerate(RECIPES):
        path = tmp_path / f"{number}.yaml"

        path.write_text(listing(f"recipes:{name}"))

        assert settings(path) == settings(CONFIGS / "trainers" / f"{name}.yaml"), name
        assert "_BASE_" not in yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("recipe", 'expected one of trainers, .* Did you mean "recipes"'),
        ("trainers:MMAA", 'Unknown trainer "MMAA". Did you mean "MMA"'),
        ("datasets:oxford_pet", 'Unknown dataset "oxford_pet". Did you mean "oxford_pets"'),
        ("recipes:Taskres", 'Unknown trainer with recipes "Taskres". Did you mean "TaskRes"'),
        ("recipes:CoOp/rn51", 'CoOp has no recipe "rn51". Did you mean "rn50"'),
        ("backbones:nothing", 'No backbone has "nothing" in its name; see --list backbones'),
    ],
)
def test_an_unknown_name_gets_those_that_look_alike(asked, text):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        listing(asked)

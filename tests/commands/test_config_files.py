"""Config files with bases, and recipes that share one file: what they set, and what is refused."""

import importlib
import os

import pytest
import yaml

from dassl.config import get_cfg_default
from dassl.config.files import (
    CONFIGS,
    config_names,
    existing_yaml,
    find_yaml,
    read_layers,
    read_mapping,
)
from dassl.config.recipes import existing_recipe
from dassl.engine.command.cli import make_config, make_parser
from dassl.engine.settings.unread import given_keys

for package in ("datasets", "trainers"):  # importing them registers what they hold
    importlib.import_module(package)
RECIPES = {
    "rn50": {"OPTIM": {"LR": 1.0, "MAX_EPOCH": 200}},
    "rn50_ep50": {"_BASE_": "rn50.yaml", "OPTIM": {"MAX_EPOCH": 50}},
}


@pytest.fixture
def write(tmp_path):
    """Write a YAML file below the temporary folder; its path."""

    def make(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
        return path

    return make


def contents(path):
    return [layer.content for layer in read_layers(path)]


def config(*words):
    words = ["--trainer", "TaskRes", "--dataset", "dtd", "--output-dir", "out", *words]
    return make_config(make_parser().parse_args(words))


def test_bases_come_first_in_their_order_each_with_its_own(write):
    write("base/a.yaml", {"_BASE_": "b.yaml", "SEED": 2})
    write("base/b.yaml", {"SEED": 1})
    write("c.yaml", {"SEED": 3})
    path = write("mine.yaml", {"_BASE_": ["base/a.yaml", "c.yaml"], "SEED": 4})

    assert contents(path) == [{"SEED": number} for number in (1, 2, 3, 4)]


def test_an_entry_of_a_recipes_yaml_is_named_like_a_file(write):
    folder = write("Method/recipes.yaml", {"files": RECIPES}).parent
    path = folder / "rn50_ep50.yaml"

    assert find_yaml(path) == path
    assert config_names(folder) == ["rn50", "rn50_ep50"]
    assert contents(path) == [RECIPES["rn50"], {"OPTIM": {"MAX_EPOCH": 50}}]
    assert read_layers(path)[-1].where == f"{folder / 'recipes.yaml'} (rn50_ep50)"


def test_a_real_file_comes_before_an_entry_of_its_name(write):
    write("Method/recipes.yaml", {"files": RECIPES})
    path = write("Method/rn50.yaml", {"OPTIM": {"LR": 7.0}})

    assert contents(path) == [{"OPTIM": {"LR": 7.0}}]


def test_a_file_of_ones_own_changes_a_recipe_by_what_it_says(write):
    recipe = "configs/trainers/TaskRes/rn101_ep100.yaml"
    path = write("mine.yaml", {"_BASE_": recipe, "OPTIM": {"LR": 0.5}})

    cfg = config("--config-file", str(path))

    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.MODEL.BACKBONE.NAME) == (0.5, 100, "RN101")
    assert cfg.RUN.RECIPE == "mine"
    args = make_parser().parse_args(["--config-file", str(path)])
    assert list(given_keys(args)) == ["OPTIM.LR"]


def test_a_config_merges_a_recipe_by_its_path_as_a_train_py_of_coop_s_kind_does():
    cfg = get_cfg_default()

    cfg.merge_from_file("configs/trainers/CoOp/vit_b32_ep50.yaml")

    assert (cfg.MODEL.BACKBONE.NAME, cfg.OPTIM.MAX_EPOCH) == ("ViT-B/32", 50)
    assert cfg.OPTIM.LR_SCHEDULER == "cosine"


# --------------------------------------------------------------------- what is refused
def test_a_base_that_is_not_there_is_named_with_its_file(write):
    write("clip_images.yaml", {})
    path = write("mine.yaml", {"_BASE_": "clip_image.yaml"})

    with pytest.raises(FileNotFoundError) as caught:
        read_layers(path)

    assert f"{path}: _BASE_ clip_image.yaml: no such file. Did you mean" in str(caught.value)
    assert "clip_images.yaml" in str(caught.value)


def test_a_folder_in_place_of_a_config_is_called_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="--config-file .* is not a regular file"):
        existing_yaml(tmp_path, "--config-file")


def test_a_recipe_is_a_name_and_not_a_path():
    with pytest.raises(FileNotFoundError, match='"../../x" is not the name of a recipe'):
        existing_recipe("TaskRes", "../../x")


def test_a_search_for_close_names_looks_into_few_folders(tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"folder{number:03}" / "sub").mkdir(parents=True)
    seen = []
    listed = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(path) or listed(path))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(FileNotFoundError, match="nowhere.yaml: no such file"):
        existing_yaml("nowhere.yaml", "--config-file")

    assert len(seen) < 250


def test_bases_in_a_circle_are_shown_as_one(write):
    first, second = (write(f"{name}.yaml", {}) for name in "ab")
    first.write_text("_BASE_: b.yaml\n")
    second.write_text("_BASE_: a.yaml\n")

    with pytest.raises(ValueError, match=rf"in a circle: {first} -> {second} -> {first}\."):
        read_layers(first)


def test_a_key_that_exists_nowhere_is_an_error_of_the_base_that_has_it(write):
    base = write("base.yaml", {"OPTIM": {"LRR": 1.0}})
    path = write("mine.yaml", {"_BASE_": "base.yaml", "OPTIM": {"LR": 1.0}})

    with pytest.raises(KeyError) as caught:
        config("--config-file", str(path))

    assert f'{base}: Non-existent config key: "OPTIM.LRR". Did you mean "OPTIM.LR"' in str(
        caught.value.args[0]
    )


@pytest.mark.parametrize("bases", [3, {"a": 1}, ["a.yaml", 3]])
def test_a_base_is_a_path_or_a_list_of_them(write, bases):
    path = write("mine.yaml", {"_BASE_": bases})

    with pytest.raises(ValueError, match="_BASE_ is .*; expected a path, or a list of them"):
        read_layers(path)


@pytest.mark.parametrize("content", [{"files": ["rn50"]}, {"files": {"rn50": [1]}}])
def test_recipes_that_are_not_sections_are_refused(write, content):
    folder = write("Method/recipes.yaml", content).parent

    with pytest.raises(ValueError, match=r"recipes.yaml \(\w+\) holds a list; expected KEY: VALUE"):
        read_layers(folder / "rn50.yaml")


def test_a_file_of_recipes_is_not_one_recipe():
    path = CONFIGS / "trainers" / "MMA" / "recipes.yaml"

    with pytest.raises(ValueError, match="holds several recipes: name one of them, as configs/"):
        read_layers(path)


def test_a_misspelt_config_file_gets_the_recipes_that_look_alike():
    with pytest.raises(FileNotFoundError, match="TaskRes/rn50_ep20.yaml: no such file. Did you"):
        existing_yaml("configs/trainers/TaskRes/rn50_ep20.yaml", "--config-file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OPTIM:\n  LR: 0.1\n  LR: 0.2\n", "LR is given twice, the second time in line 3"),
        ("A: 1\nB: {C: 1, 'C': 2}\n", "C is given twice, the second time in line 2"),
        ("OPTIM: {}\nSEED: 1\nOPTIM: {LR: 1}\n", "OPTIM is given twice.* line 3"),
        ("1: 2\n", "1 is not the name of a key. Put quotes"),
        ("OPTIM: {yes: 2}\n", "True is not the name of a key"),
        ("OPTIM: {NAME: 2020-01-01}\n", "value of NAME as a date .2020-01-01.. Put quotes"),
        ("OPTIM: {NAME: !!binary aGk=}\n", "value of NAME as a bytes"),
        ("OPTIM: {NAME: !!set {a, b}}\n", "value of NAME as a set"),
    ],
)
def test_what_yaml_takes_for_something_else_is_refused(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)

    with pytest.raises(ValueError, match=rf"x\.yaml.*{message}"):
        read_mapping(tmp_path / "x.yaml")


def test_merged_keys_may_be_given_again(tmp_path):
    (tmp_path / "x.yaml").write_text("A: &a {LR: 1}\nB: {<<: *a, LR: 2}\n")

    assert read_mapping(tmp_path / "x.yaml") == {"A": {"LR": 1}, "B": {"LR": 2}}

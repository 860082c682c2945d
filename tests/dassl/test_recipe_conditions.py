"""What recipes.yaml says beside the choice of a file."""

import pytest
import yaml

from dassl.config.recipes import resolve

FILES = {"rn50": "RN50", "vit_b16": "ViT-B/16"}  # recipe -> its backbone


@pytest.fixture
def method(tmp_path):
    """Write a trainer's folder with two recipes, an overlay and a recipes.yaml; its parent."""

    def make(**rules):
        folder = tmp_path / "Method"
        folder.mkdir()
        for name, backbone in FILES.items():
            content = {"MODEL": {"BACKBONE": {"NAME": backbone}}, "OPTIM": {"LR": 1.0}}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        (folder / "overlay.yaml").write_text(yaml.safe_dump({"OPTIM": {"LR": 2.0}}))
        rules = {"backbone": "RN50", "recipe": [{"file": "{backbone}"}], **rules}
        (folder / "recipes.yaml").write_text(yaml.safe_dump(rules))
        return tmp_path

    return make


def test_seeds_and_whether_anything_is_trained_are_the_methods(method):
    recipe = resolve("Method", "dtd", directory=method(seeds=[7, 8], eval_only=True))

    assert recipe.seeds == (7, 8)
    assert recipe.eval_only


def test_an_added_file_comes_after_the_recipe_and_wins(method):
    recipe = resolve("Method", "dtd", directory=method(add=[{"file": "overlay"}]))

    assert [path.stem for path in recipe.files] == ["rn50", "overlay"]
    assert recipe.value("OPTIM.LR") == 2.0


def test_an_added_option_wins_over_the_files(method):
    recipe = resolve("Method", "dtd", directory=method(add=[{"opts": {"OPTIM.LR": 3.0}}]))

    assert recipe.value("OPTIM.LR") == "3.0"


def test_a_condition_on_the_backbone_sees_that_of_the_chosen_recipe(method):
    folder = method(add=[{"opts": {"OPTIM.LR": 3.0}, "backbone": "ViT-B/16"}])

    assert resolve("Method", "dtd", recipe="vit_b16", directory=folder).opts == ("OPTIM.LR", "3.0")
    assert resolve("Method", "dtd", recipe="rn50", directory=folder).opts == ()


def test_a_condition_on_the_recipe_sees_its_name(method):
    folder = method(add=[{"opts": {"OPTIM.LR": 3.0}, "recipe": "vit_*"}])

    assert resolve("Method", "dtd", backbone="ViT-B/16", directory=folder).opts == (
        "OPTIM.LR",
        "3.0",
    )
    assert resolve("Method", "dtd", directory=folder).opts == ()

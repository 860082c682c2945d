"""Trees that are nearly what a reader expects get the command that makes them so."""

import re
import subprocess

import pytest
from dataset_trees import make_cfg, write_images

from dassl.data.datasets import build_dataset
from datasets.class_folder import ClassFolder
from datasets.domainbed import DomainFolder
from datasets.near_miss import check_split_folders
from tools import check_data


def tree(root, *classes, count=5):
    write_images(root, [f"{name}/{k}.jpg" for name in classes for k in range(count)])
    return root


def build(root, name=ClassFolder.__name__):
    is_domains = name == DomainFolder.__name__
    settings = {"TARGET_DOMAINS": ("photo",), "TRIAL_SEED": 0} if is_domains else {}
    return build_dataset(make_cfg(root, name, **settings))


TREES = {
    "no test": ["train/cat", "train/dog", "val/cat", "val/dog"],
    "capitals": ["Train/cat", "Train/dog", "Test/cat", "Test/dog"],
    "valid": ["train/cat", "train/dog", "valid/cat", "valid/dog", "test/cat", "test/dog"],
    "long words": ["training/cat", "training/dog", "validation/cat", "testing/dog"],
    "valid, no test": ["TRAIN/cat", "TRAIN/dog", "valid/cat"],
}


@pytest.mark.parametrize("kind", TREES)
def test_the_command_for_a_nearly_divided_tree_makes_it_one(tmp_path, kind):
    root = tree(tmp_path / "my birds", *TREES[kind])

    with pytest.raises(ValueError, match=r"is divided into .*\. Run: mv ") as caught:
        build(root)
    command = str(caught.value).partition("Run: ")[2]
    subprocess.run(command, shell=True, check=True)

    assert build(root).classnames == ["cat", "dog"]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/cat", "train/dog"], r"holds train, not train and test.*--root .*/train"),
        (["test/cat", "val/cat"], "Run: mv|not train and test"),
        (["train/cat", "Train/cat", "test/cat"], "holds Train and train. Keep one"),
        (["birds/cat", "birds/dog"], r"one level deeper: pass --root .*/birds"),
        (["photo/cat", "photo/dog", "sketch/cat"], "domains .photo, sketch.*--dataset domain_fold"),
        (["train_set/cat", "test_set/cat"], "seem to be splits.* Run: mv .*test_set .*test && mv"),
        (["."], r"holds 5 images itself.*pass the folder above, --root"),
    ],
)  # fmt: skip
def test_other_trees_say_what_they_look_like(tmp_path, folders, message):
    tree(tmp_path / "d", *folders)

    with pytest.raises((FileNotFoundError, ValueError), match=message):
        build(tmp_path / "d")


def test_a_class_whose_images_lie_deeper_is_named(tmp_path):
    tree(tmp_path, "cat", "dog/raw")

    with pytest.raises(FileNotFoundError, match=r"No images in .*dog.*move them up"):
        build(tmp_path)


@pytest.mark.parametrize("name", ["train", "testing", "valid"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    assert not check_split_folders(tmp_path, [name, "car", "bus"])


@pytest.mark.parametrize("junk", ["__MACOSX", "@eaDir", "lost+found"])
def test_what_archives_and_file_servers_leave_is_named_and_not_read(tmp_path, junk, caplog):
    tree(tmp_path, "cat", "dog", junk)

    assert build(tmp_path).classnames == ["cat", "dog"]

    assert f"{junk} is left out; to remove it: rm -r " in caplog.text


def test_class_folders_given_as_domains_are_named(tmp_path):
    tree(tmp_path, "photo", "sketch")

    with pytest.raises(FileNotFoundError, match="not domain folders .*--dataset class_folder"):
        build(tmp_path, DomainFolder.__name__)


def test_domains_one_level_too_deep_are_named(tmp_path):
    tree(tmp_path / "mine", "photo/cat", "sketch/cat")

    with pytest.raises(FileNotFoundError, match=r"one level deeper: --root .*/mine"):
        build(tmp_path, DomainFolder.__name__)


@pytest.mark.parametrize(
    ("place", "root", "message"),
    [
        ("OXFORD_PETS/images", ".", "Rename it: mv .*OXFORD_PETS .*oxford_pets"),
        ("oxford_pets/oxford_pets/images", ".", "one level deeper. Move it: mv "),
        ("oxford_pets/Images", ".", "Rename it: mv .*Images .*images"),
        ("oxford_pets/images", "oxford_pets", "pass the folder above, --root"),
    ],
)
def test_a_published_set_beside_its_place_is_found(tmp_path, place, root, message, capsys):
    (tmp_path / place).mkdir(parents=True)

    assert check_data.main(["oxford_pets", "--root", str(tmp_path / root)]) == 1

    assert re.search(message, capsys.readouterr().out)


def test_a_data_folder_that_is_not_there_is_not_looked_for_in_other_folders(tmp_path, capsys):
    (tmp_path / "code" / "data" / "cat").mkdir(parents=True)

    assert check_data.main(["class_folder", "--root", str(tmp_path / "data")]) == 1

    said = capsys.readouterr().out
    assert "mv " not in said and "check_data.py class_folder --root PATH" in said

"""Images of one's own in class folders."""

import json
import random
from pathlib import Path

import pytest
from dataset_trees import make_cfg, write_images

from dassl.data.datasets import build_dataset
from datasets.class_folder import ClassFolder
from tools import check_data

CLASSES = ("red_fox", "badger")


def images(folder, classes=CLASSES, count=10):
    write_images(folder, [f"{name}/img_{k}.jpg" for name in classes for k in range(count)])


def build(root, **settings):
    return build_dataset(make_cfg(root, ClassFolder.__name__, **settings))


def relative(items, folder):
    return [Path(item.impath).relative_to(folder).as_posix() for item in items]


def sizes(dataset):
    return len(dataset.train_x), len(dataset.val), len(dataset.test)


def test_plain_class_folders_are_split_the_same_on_every_machine(tmp_path):
    images(tmp_path)
    generator, expected = random.Random(0), []
    for name in sorted(CLASSES):
        paths = [f"{name}/img_{k}.jpg" for k in range(10)]
        generator.shuffle(paths)
        expected += paths[:5]

    dataset = build(tmp_path)

    assert relative(dataset.train_x, tmp_path) == expected
    assert sizes(dataset) == (10, 4, 6)
    assert dataset.classnames == ["badger", "red_fox"]


def test_a_second_run_with_shots_reads_the_same_classes(tmp_path):
    images(tmp_path)

    first = build(tmp_path, NUM_SHOTS=2)
    second = build(tmp_path, NUM_SHOTS=2)

    assert (tmp_path / "split_fewshot").is_dir()
    assert second.classnames == first.classnames
    assert relative(second.train_x, tmp_path) == relative(first.train_x, tmp_path)


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    images(tmp_path / "train")
    images(tmp_path / "test", classes=("badger",), count=3)

    dataset = build(tmp_path)

    assert sizes(dataset) == (16, 4, 3)
    assert relative(dataset.test, tmp_path) == [f"test/badger/img_{k}.jpg" for k in range(3)]
    assert {item.label for item in dataset.test} == {0}


def test_a_validation_folder_is_taken_where_there_is_one(tmp_path):
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        images(tmp_path / split, count=count)

    assert sizes(build(tmp_path)) == (12, 4, 6)


def test_classes_too_small_for_a_validation_part_have_none(tmp_path):
    images(tmp_path / "train", count=2)
    images(tmp_path / "test", count=1)

    assert sizes(build(tmp_path)) == (4, 0, 2)


def test_a_split_file_goes_first(tmp_path):
    images(tmp_path, count=3)
    entries = [[f"badger/img_{k}.jpg", 0, "badger"] for k in range(3)]
    split = dict(zip(("train", "val", "test"), ([entry] for entry in entries)))
    (tmp_path / "split.json").write_text(json.dumps(split))

    assert relative(build(tmp_path).test, tmp_path) == ["badger/img_2.jpg"]


@pytest.mark.parametrize(
    ("trees", "message"),
    [
        (["."], "No class folders"),
        (["train", "test", "other"], "train and test beside other"),
    ],
)
def test_other_trees_are_refused_with_the_reason(tmp_path, trees, message):
    for tree in trees:
        (tmp_path / tree).mkdir(exist_ok=True)

    with pytest.raises((FileNotFoundError, ValueError), match=message):
        build(tmp_path)


def test_a_test_class_that_training_does_not_have_is_named(tmp_path):
    images(tmp_path / "train")
    images(tmp_path / "test", classes=("wolf",))

    with pytest.raises(ValueError, match="wolf"):
        build(tmp_path)


def test_check_data_counts_ones_own_images(tmp_path, capsys):
    images(tmp_path)

    status = check_data.main(["class_folder", "--root", str(tmp_path)])

    assert status == 0
    assert "2 classes; images: train 10, val 4, test 6" in capsys.readouterr().out

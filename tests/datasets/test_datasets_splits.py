"""Split files and their rebuilding, for every dataset that has one."""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_trees import make_cfg, names, pets_tree, write_images, write_split
from scipy.io import savemat

from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from datasets.dtd import DescribableTextures
from datasets.ucf101 import UCF101

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_SPLITS = REPOSITORY.parent / "shared" / "data" / "splits"


def build(root, name, **settings):
    return build_dataset(make_cfg(root, name, **settings))


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def sizes(dataset):
    return len(dataset.train_x), len(dataset.val), len(dataset.test)


def relative(items, folder):
    return [Path(i.impath).relative_to(folder).as_posix() for i in items]


def folder_tree(root, folder, classes, count=10):
    write_images(root / folder, [f"{c}/img_{k}.jpg" for c in classes for k in range(count)])


def test_folder_sets_follow_rule_p_with_a_private_generator(tmp_path):
    folder_tree(tmp_path, "dtd/images", ["waffled", "banded"])
    generator, expected = random.Random(0), []
    for name in ("banded", "waffled"):
        paths = [f"{name}/img_{k}.jpg" for k in range(10)]
        generator.shuffle(paths)
        expected += paths[:5]

    dataset = build(tmp_path, "DescribableTextures")

    assert relative(dataset.train_x, tmp_path / "dtd" / "images") == expected
    assert sizes(dataset) == (10, 4, 6)
    assert dataset.classnames == ["banded", "waffled"]


def test_a_rebuilt_split_is_saved_and_announced(tmp_path, capsys):
    folder_tree(tmp_path, "dtd/images", ["waffled", "banded"])

    first = build(tmp_path, "DescribableTextures")
    said = capsys.readouterr().out
    second = build(tmp_path, "DescribableTextures")

    assert "not the published split" in said
    assert (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").is_file()
    assert names(second.test) == names(first.test)


def test_caltech_leaves_out_two_folders_and_renames_four(tmp_path):
    folders = ["BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "Motorbikes", "accordion"]
    folder_tree(tmp_path, "caltech-101/101_ObjectCategories", [*folders, "airplanes"])

    dataset = build(tmp_path, "Caltech101")

    assert dataset.classnames == ["face", "leopard", "motorbike", "accordion", "airplane"]


def test_eurosat_takes_the_long_names(tmp_path):
    folder_tree(tmp_path, "eurosat/2750", ["SeaLake", "AnnualCrop", "Forest"])

    dataset = build(tmp_path, "EuroSAT")

    assert dataset.classnames == ["Annual Crop Land", "Forest", "Sea or Lake"]


def test_food_names_are_folder_names(tmp_path):
    folder_tree(tmp_path, "food-101/images", ["apple_pie", "baklava"])

    dataset = build(tmp_path, "Food101")

    assert dataset.classnames == ["apple_pie", "baklava"]


def test_pets_split_the_official_trainval_list(tmp_path):
    folder = tmp_path / "oxford_pets"
    stems = [f"{b}_{k}" for b in ("Great_Pyrenees", "Abyssinian") for k in range(10)]
    lines = [f"{s} {2 if s.startswith('G') else 1} 1 1" for s in stems]
    write_images(folder / "images", [f"{s}.jpg" for s in stems])
    write_lines(folder / "annotations" / "trainval.txt", ["# a comment", *lines])
    write_lines(folder / "annotations" / "test.txt", lines[:3])

    dataset = build(tmp_path, "OxfordPets")

    assert sizes(dataset) == (16, 4, 3)
    assert dataset.classnames == ["abyssinian", "great_pyrenees"]


def test_flowers_read_the_matlab_labels(tmp_path):
    folder = tmp_path / "oxford_flowers"
    labels = [2] * 10 + [1] * 10
    write_images(folder / "jpg", [f"image_{k:05d}.jpg" for k in range(1, 21)])
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    (folder / "cat_to_name.json").write_text(json.dumps({"1": "rose", "2": "lily"}))

    dataset = build(tmp_path, "OxfordFlowers")

    assert dataset.classnames == ["rose", "lily"]
    assert {n for n, i in zip(names(dataset.test), dataset.test) if i.label == 1} <= {
        f"image_{k:05d}.jpg" for k in range(1, 11)
    }


def test_a_flower_without_a_name_stops_the_rebuild(tmp_path):
    folder = tmp_path / "oxford_flowers"
    write_images(folder / "jpg", [f"image_{k:05d}.jpg" for k in range(1, 21)])
    savemat(folder / "imagelabels.mat", {"labels": np.array([[2] * 10 + [1] * 10])})
    (folder / "cat_to_name.json").write_text(json.dumps({"1": "rose"}))

    with pytest.raises(ValueError, match=r"cat_to_name.json .* lacks 1 of .*: 2\. .*get_data"):
        build(tmp_path, "OxfordFlowers")

    assert not (folder / "split_zhou_OxfordFlowers.json").exists()


@pytest.mark.parametrize("test_file", ["devkit/{}", "{}"])
def test_cars_read_the_devkit_and_move_the_year_to_the_front(tmp_path, test_file):
    folder = tmp_path / "stanford_cars"
    kind = [("fname", object), ("class", object)]
    train = np.array([(f"{k:05d}.jpg", 1 + k % 2) for k in range(20)], dtype=kind)
    test = np.array([(f"{k:05d}.jpg", 1 + k % 2) for k in range(4)], dtype=kind)
    write_images(folder / "cars_train", [str(row["fname"]) for row in train])
    write_images(folder / "cars_test", [str(row["fname"]) for row in test])
    (folder / "devkit").mkdir()
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": train[None]})
    name = test_file.format("cars_test_annos_withlabels.mat")
    savemat(folder / name, {"annotations": test[None]})
    names_of = np.array([["AM General Hummer SUV 2000", "Audi TTS Coupe 2012"]], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names_of})

    dataset = build(tmp_path, "StanfordCars")

    assert dataset.classnames == ["2000 AM General Hummer SUV", "2012 Audi TTS Coupe"]
    assert sizes(dataset) == (16, 4, 4)
    assert relative(dataset.test, folder)[0] == "cars_test/00000.jpg"


@pytest.mark.parametrize("place", ["sun397", "sun397/SUN397"])
def test_sun_names_are_reversed_paths(tmp_path, place):
    classes = ["/a/abbey", "/a/apartment_building/outdoor"]
    images = [f"{c}/sun_{k}.jpg" for c in classes for k in range(10)]
    write_images(tmp_path / "sun397" / "SUN397", [i[1:] for i in images])
    write_lines(tmp_path / place / "ClassName.txt", classes)
    write_lines(tmp_path / place / "Training_01.txt", images)
    write_lines(tmp_path / place / "Testing_01.txt", images[::5])

    dataset = build(tmp_path, "SUN397")

    assert dataset.classnames == ["abbey", "outdoor apartment_building"]
    assert sizes(dataset) == (16, 4, 4)


def test_ucf_frames_lie_in_folders_named_with_underscores(tmp_path):
    folder = tmp_path / "ucf101"
    videos = {
        "ApplyEyeMakeup": "v_ApplyEyeMakeup_g01_c{:02d}",
        "HandstandPushups": "v_HandStandPushups_g01_c{:02d}",
    }
    lines = [f"{a}/{v.format(k)}.avi {n}" for n, (a, v) in enumerate(videos.items(), 1)
             for k in range(10)]  # fmt: skip
    frames = [f"Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c{k:02d}.jpg" for k in range(10)]
    frames += [f"Handstand_Pushups/v_HandStandPushups_g01_c{k:02d}.jpg" for k in range(10)]
    write_images(folder / "UCF-101-midframes", frames)
    lists = folder / "ucfTrainTestlist"
    write_lines(lists / "classInd.txt", ["1 ApplyEyeMakeup", "2 HandstandPushups"])
    write_lines(lists / "trainlist01.txt", lines)
    write_lines(lists / "testlist01.txt", [line.split()[0] for line in lines[::5]])

    dataset = build(tmp_path, "UCF101")

    assert dataset.classnames == ["Apply_Eye_Makeup", "Handstand_Pushups"]
    assert sizes(dataset) == (16, 4, 4)


def aircraft_tree(root):
    folder = root / "fgvc_aircraft"
    write_images(folder / "images", [f"{k:07d}.jpg" for k in range(6)])
    write_lines(folder / "variants.txt", ["707-320", "Boeing 717"])
    for split, start in (("train", 0), ("val", 2), ("test", 4)):
        lines = [f"{start:07d} Boeing 717", f"{start + 1:07d} 707-320"]
        write_lines(folder / f"images_variant_{split}.txt", lines)
    return folder


def test_aircraft_uses_the_authors_lists_and_saves_no_split(tmp_path):
    folder = aircraft_tree(tmp_path)

    dataset = build(tmp_path, "FGVCAircraft")

    assert [(n, i.label) for n, i in zip(names(dataset.val), dataset.val)] == [
        ("0000002.jpg", 1),
        ("0000003.jpg", 0),
    ]
    assert dataset.classnames == ["707-320", "Boeing 717"]
    assert not list(folder.glob("*.json"))


def test_an_aircraft_list_with_an_unknown_variant_is_refused(tmp_path):
    folder = aircraft_tree(tmp_path)
    write_lines(folder / "images_variant_test.txt", ["0000004 Boeing 999"])

    with pytest.raises(ValueError, match='line 1: "0000004 Boeing 999" is not an image number'):
        build(tmp_path, "FGVCAircraft")


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="DATASET.ROOT is .*nowhere"):
        build(tmp_path / "nowhere", "OxfordPets")


def test_a_missing_image_folder_is_named_with_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="check_data.py oxford_pets") as caught:
        build(tmp_path, "OxfordPets")

    assert str(tmp_path / "oxford_pets" / "images") in str(caught.value)


def test_a_split_that_cannot_be_rebuilt_names_both_files(tmp_path):
    (tmp_path / "oxford_pets" / "images").mkdir(parents=True)

    with pytest.raises(FileNotFoundError) as caught:
        build(tmp_path, "OxfordPets")

    assert "split_zhou_OxfordPets.json" in str(caught.value)
    assert str(tmp_path / "oxford_pets" / "annotations" / "trainval.txt") in str(caught.value)


def test_a_missing_image_is_named_and_counted(tmp_path):
    splits = pets_tree(tmp_path)
    missing = tmp_path / "oxford_pets" / "images" / splits["test"][2][0]
    missing.unlink()

    with pytest.raises(FileNotFoundError, match="1 of 45 images") as caught:
        build(tmp_path, "OxfordPets")

    assert str(missing) in str(caught.value)


def test_skipping_bad_images_leaves_missing_ones_to_the_loaders(tmp_path):
    splits = pets_tree(tmp_path)
    (tmp_path / "oxford_pets" / "images" / splits["test"][2][0]).unlink()

    dataset = build(tmp_path, "OxfordPets", SKIP_BAD_IMAGES=True)

    assert len(dataset.test) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"train": [[', "is not valid JSON"),
        ('{"train": []}', 'needs the lists "train", "val", "test"'),
        ('{"train": [], "val": [], "test": []}', 'the list "train" is empty'),
        ('{"train": [["a.jpg", "0", "x"]], "val": [], "test": []}', "is not .path, label"),
        (
            '{"train": [["a", 0, "x"], ["b", 0, "y"]], "val": [], "test": [["c", 0, "x"]]}',
            "label 0 has two class names",
        ),
        (
            '{"train": [["a", 0, "x"], ["b", 1, "y"]], "val": [], "test": [["c", 1, "z"]]}',
            'label 1 has two class names, "y" and "z"',
        ),
    ],
)
def test_a_damaged_split_file_is_refused_with_the_reason(tmp_path, content, message):
    pets_tree(tmp_path)
    (tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json").write_text(content)

    with pytest.raises(ValueError, match=message):
        build(tmp_path, "OxfordPets")


def test_an_empty_class_folder_is_named(tmp_path):
    folder_tree(tmp_path, "dtd/images", ["banded", "waffled"])
    (tmp_path / "dtd" / "images" / "dotted").mkdir()

    with pytest.raises(FileNotFoundError, match=r"No images in .*dotted"):
        build(tmp_path, "DescribableTextures")


def test_a_class_too_small_to_split_is_named(tmp_path):
    folder_tree(tmp_path, "dtd/images", ["banded"])
    folder_tree(tmp_path, "dtd/images", ["waffled"], count=1)

    with pytest.raises(ValueError, match='Class "waffled" has 1 images'):
        build(tmp_path, "DescribableTextures")


def test_a_read_only_folder_costs_only_the_kept_files(tmp_path, caplog, monkeypatch):
    folder_tree(tmp_path, "dtd/images", ["banded", "waffled"])

    def refuse(path):
        raise PermissionError(f"read-only: {path}")

    monkeypatch.setattr("dassl.utils.files.atomic_write", refuse)
    with caplog.at_level(logging.WARNING):
        dataset = build(tmp_path, "DescribableTextures", NUM_SHOTS=2)

    assert len(dataset.train_x) == 4
    assert "could not be saved" in caplog.text and "could not be kept" in caplog.text


def test_read_and_split_data_draws_from_the_global_generator(tmp_path):
    folder_tree(tmp_path, "x", ["b", "a", "skip"])
    random.seed(4)
    paths = [f"a/img_{k}.jpg" for k in range(10)]
    random.shuffle(paths)
    random.seed(4)

    train, val, test = DescribableTextures.read_and_split_data(
        str(tmp_path / "x"), ignored=["skip"], new_cnames={"a": "first"}
    )

    assert relative(train, tmp_path / "x")[:5] == paths[:5]
    assert (len(train), len(val), len(test)) == (10, 4, 6)
    assert train[0].classname == "first"


@pytest.mark.parametrize(
    "name",
    [
        "Caltech101",
        "DescribableTextures",
        "EuroSAT",
        "OxfordFlowers",
        "OxfordPets",
        "StanfordCars",
        "UCF101",
    ],
)
def test_published_split_files_draw_as_the_original(tmp_path, name):
    source = SHARED_SPLITS / f"split_zhou_{name}.json"
    if not source.is_file():
        pytest.skip(f"needs {source}")
    splits = json.loads(source.read_text(encoding="utf-8"))
    cls = DATASET_REGISTRY.get(name)
    write_split(tmp_path / cls.dataset_dir / source.name, splits)
    (tmp_path / cls.dataset_dir / cls.image_folder).mkdir(exist_ok=True)
    for place in ("cars_train", "cars_test"):
        (tmp_path / cls.dataset_dir / place).mkdir(exist_ok=True)
    random.seed(2)
    groups = {}
    for path, label, _ in splits["train"]:
        groups.setdefault(label, []).append(path)
    expected = [p for group in groups.values() for p in random.sample(group, 4)]

    dataset = build(tmp_path, name, NUM_SHOTS=4, SEED=2, SKIP_BAD_IMAGES=True)

    assert relative(dataset.train_x, dataset.image_dir) == expected
    assert len(dataset.test) == len(splits["test"])


def test_a_split_is_read_from_backslashes_too(tmp_path):
    write_images(tmp_path / "ucf101" / UCF101.image_folder, ["A/x.jpg"])
    entries = [[r"A\x.jpg", 0, "A"]]
    write_split(
        tmp_path / "ucf101" / "split_zhou_UCF101.json",
        {"train": entries, "val": entries, "test": entries},
    )

    dataset = build(tmp_path, "UCF101")

    assert Path(dataset.test[0].impath).is_file()


def test_a_dataset_file_put_into_the_folder_is_found(tmp_path):
    code = """
from dassl.data.datasets import DATASET_REGISTRY

from .split_dataset import FolderSplitDataset


@DATASET_REGISTRY.register()
class MyBirds(FolderSplitDataset):
    dataset_dir = "my_birds"
    config = "my_birds"
    section = "A dataset file of your own"
"""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "datasets", tmp_path / "code" / "datasets", ignore=ignored)
    (tmp_path / "code" / "datasets" / "my_birds.py").write_text(code)
    folder_tree(tmp_path, "my_birds/images", ["wren", "robin"])
    program = """
import sys, datasets
from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
cfg = get_cfg_default()
cfg.DATASET.NAME, cfg.DATASET.ROOT = "MyBirds", sys.argv[1]
dataset = build_dataset(cfg)
print(dataset.classnames, len(dataset.train_x), len(dataset.val), len(dataset.test))
"""
    path = os.pathsep.join([str(tmp_path / "code"), str(REPOSITORY)])

    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert result.stdout.endswith("['robin', 'wren'] 10 4 6\n"), result.stderr

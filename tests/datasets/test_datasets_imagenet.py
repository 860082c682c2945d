"""ImageNet and its four test sets: labels, names, ids, listings, validation images."""

import json
import os
from pathlib import Path

import pytest
from dataset_trees import make_cfg, names, write_images
from imagenet_rows import IMAGENET_A, IMAGENET_R

from dassl.data.datasets import build_dataset
from datasets.imagenet import ImageNet
from datasets.imagenet_classes import imagenet_wnids, variant_wnids
from datasets.listings import listing_file

WNIDS = ["n01440764", "n01443537", "n01484850", "n01491361", "n01494475"]
NAMES = ["tench", "goldfish", "great white shark", "tiger shark", "hammerhead shark"]


def build(root, name="ImageNet", **settings):
    return build_dataset(make_cfg(root, name, **settings))


def imagenet_tree(root, *, wnids=WNIDS, train=6, val=2, name_file=True):
    images = root / "imagenet" / "images"
    write_images(images / "train", [f"{w}/{w}_{k}.JPEG" for w in wnids for k in range(train)])
    write_images(images / "val", [f"{w}/val_{w}_{k}.JPEG" for w in wnids for k in range(val)])
    if name_file:
        lines = [f"{w} {n}" for w, n in zip(WNIDS, NAMES)]
        (root / "imagenet" / "classnames.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("dataset", "rows"), [("imagenet_a", IMAGENET_A), ("ImageNetR", IMAGENET_R)]
)
def test_ids_of_a_and_r_are_the_official_rows_of_imagenet(dataset, rows):
    source = imagenet_wnids()

    found = [source.index(wnid) for wnid in variant_wnids(dataset)]

    assert found == rows


def test_the_ids_of_imagenet_are_sorted():
    assert imagenet_wnids() == sorted(set(imagenet_wnids()))
    assert len(imagenet_wnids()) == 1000


def test_an_unknown_variant_gets_a_suggestion():
    with pytest.raises(ValueError, match='Did you mean "imagenet_a"'):
        variant_wnids("imagenet_aa")


def test_labels_are_places_among_sorted_training_folders(tmp_path):
    imagenet_tree(tmp_path)

    dataset = build(tmp_path)

    assert dataset.classnames == NAMES
    assert dataset.class_ids == WNIDS
    assert (len(dataset.train_x), len(dataset.test)) == (30, 10)


def test_the_validation_list_is_the_test_list(tmp_path):
    imagenet_tree(tmp_path)

    dataset = build(tmp_path, NUM_SHOTS=2)

    assert dataset.val is dataset.test


def test_selecting_on_val_draws_from_training_images_that_are_no_shots(tmp_path):
    imagenet_tree(tmp_path)
    plain = build(tmp_path, NUM_SHOTS=3)

    dataset = build(tmp_path, NUM_SHOTS=3, SELECT_ON="val")

    assert names(dataset.train_x) == names(plain.train_x)
    assert len(dataset.val) == 15
    assert not set(names(dataset.val)) & set(names(dataset.train_x))
    assert all("train" in item.impath for item in dataset.val)
    assert names(dataset.test) == names(plain.test)


def test_selecting_on_val_survives_a_kept_draw(tmp_path):
    imagenet_tree(tmp_path)

    first, second = (build(tmp_path, NUM_SHOTS=2, SELECT_ON="val") for _ in range(2))

    assert names(first.val) == names(second.val)


def test_a_drawn_record_that_is_no_training_image_is_refused(tmp_path):
    imagenet_tree(tmp_path)
    dataset = build(tmp_path, NUM_SHOTS=2)
    (path,) = Path(dataset.split_fewshot_dir).glob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["train"][0][0] = content["train"][0][0].replace("train/", "val/")
    del content["drawn"]
    path.write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(ValueError, match=f"the split has no such image.*Delete {path}"):
        build(tmp_path, NUM_SHOTS=2)


def test_selecting_on_val_with_all_training_images_is_refused(tmp_path):
    imagenet_tree(tmp_path)

    with pytest.raises(ValueError, match="Set DATASET.NUM_SHOTS"):
        build(tmp_path, SELECT_ON="val")


@pytest.mark.parametrize(("subsample", "expected"), [("base", WNIDS[:3]), ("new", WNIDS[3:])])
def test_class_ids_follow_the_class_subset(tmp_path, subsample, expected):
    imagenet_tree(tmp_path)

    dataset = build(tmp_path, NUM_SHOTS=1, SUBSAMPLE_CLASSES=subsample)

    assert dataset.class_ids == expected
    assert dataset.num_classes == len(expected)
    assert dataset.val is dataset.test


def test_without_a_name_file_the_names_are_open_clips(tmp_path, capsys):
    imagenet_tree(tmp_path, name_file=False)

    dataset = build(tmp_path)

    assert dataset.classnames == NAMES
    assert "open_clip_torch" in capsys.readouterr().out


def test_a_changed_folder_is_listed_again(tmp_path):
    imagenet_tree(tmp_path)
    build(tmp_path)
    folder = tmp_path / "imagenet" / "images" / "train"
    assert listing_file(folder).is_file()
    write_images(folder, [f"{WNIDS[0]}/new.JPEG"])
    os.utime(folder / WNIDS[0], (1, 1))

    dataset = build(tmp_path)

    assert "new.JPEG" in names(dataset.train_x)


def test_a_kept_listing_spares_reading_the_folders(tmp_path, monkeypatch):
    imagenet_tree(tmp_path)
    build(tmp_path)
    monkeypatch.setattr("datasets.listings.images_by_class", None)

    dataset = build(tmp_path)

    assert len(dataset.train_x) == 30


def test_a_damaged_listing_is_made_again(tmp_path, caplog):
    imagenet_tree(tmp_path)
    build(tmp_path)
    listing_file(tmp_path / "imagenet" / "images" / "val").write_text("{", encoding="utf-8")

    dataset = build(tmp_path)

    assert len(dataset.test) == 10
    assert "damaged" in caplog.text


def test_a_missing_training_folder_is_named(tmp_path):
    write_images(tmp_path / "imagenet" / "images" / "val", [f"{WNIDS[0]}/a.JPEG"])

    with pytest.raises(FileNotFoundError, match="check_data.py imagenet") as caught:
        build(tmp_path)

    assert str(tmp_path / "imagenet" / "images" / "train") in str(caught.value)


def test_a_validation_class_without_training_folder_is_refused(tmp_path):
    imagenet_tree(tmp_path)
    write_images(tmp_path / "imagenet" / "images" / "val", ["n02101006/a.JPEG"])

    with pytest.raises(ValueError, match="class folder n02101006"):
        build(tmp_path)


def test_an_incomplete_imagenet_is_warned_about(tmp_path, caplog):
    imagenet_tree(tmp_path)

    build(tmp_path)

    assert "lacks 995 of the 1000 classes of ImageNet, first n01496331" in caplog.text


def test_a_folder_without_a_class_name_is_refused(tmp_path):
    imagenet_tree(tmp_path)
    images = tmp_path / "imagenet" / "images"
    write_images(images / "train", ["n99999999/a.JPEG"])
    write_images(images / "val", ["n99999999/a.JPEG"])

    with pytest.raises(ValueError, match="n99999999 .* is in no line of classnames.txt"):
        build(tmp_path)


def test_read_classnames_keeps_the_order_of_the_file(tmp_path):
    file = tmp_path / "classnames.txt"
    file.write_text("n02 great white shark\n\nn01 tench\n", encoding="utf-8")

    found = ImageNet.read_classnames(str(file))

    assert list(found.items()) == [("n02", "great white shark"), ("n01", "tench")]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ImageNetA", "imagenet-adversarial/imagenet-a"),
        ("ImageNetR", "imagenet-rendition/imagenet-r"),
    ],
)
def test_a_and_r_label_their_own_200_folders(tmp_path, name, folder):
    wnids = variant_wnids(name)
    write_images(tmp_path / folder, [f"{w}/x.jpg" for w in wnids])
    (tmp_path / folder / "README.txt").write_text("not a class")

    dataset = build(tmp_path, name)

    assert dataset.class_ids == wnids
    assert [item.label for item in dataset.test] == list(range(200))
    assert names(dataset.train_x) == names(dataset.test)


def test_sketch_with_few_classes_warns(tmp_path, caplog):
    imagenet_tree(tmp_path)
    write_images(tmp_path / "imagenet-sketch" / "images", [f"{w}/s.JPEG" for w in WNIDS])

    dataset = build(tmp_path, "ImageNetSketch")

    assert dataset.classnames == NAMES
    assert "has 5 class folders" in caplog.text


def test_the_folder_name_is_the_label_in_v2(tmp_path):
    folder = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    write_images(folder, [f"{label}/x{label}.jpeg" for label in range(1000)])

    dataset = build(tmp_path, "ImageNetV2")

    assert all(n == f"x{i.label}.jpeg" for n, i in zip(names(dataset.test), dataset.test))
    assert dataset.class_ids == imagenet_wnids()
    assert dataset.classnames[:2] == ["tench", "goldfish"]


def test_v2_with_a_missing_folder_is_refused(tmp_path):
    folder = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    write_images(folder, [f"{label}/x.jpeg" for label in range(10)])

    with pytest.raises(ValueError, match=r"missing: 10, 11, 12 \(990 in all\)"):
        build(tmp_path, "ImageNetV2")

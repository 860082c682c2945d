"""Datasets, few-shot draws, loaders, the data manager."""

import copy
import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dassl.config import get_cfg_default
from dassl.data import DataManager, DatasetWrapper, build_data_loader, checks
from dassl.data.checks import warn_of_one_class, warn_of_shared_images
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset
from dassl.data.transforms import build_transform
from dassl.utils import BadImageError, file_index

CLASSES = 3


def make_items(folder, per_class=5):
    rng = np.random.default_rng(0)
    items = []
    for label in range(CLASSES):
        for number in range(per_class):
            path = folder / f"{label}_{number}.png"
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(path)
            items.append(Datum(str(path), label, number % 2, f"class {label}"))
    return items


@DATASET_REGISTRY.register()
class TinyForTests(DatasetBase):
    """Items that the test puts on the class."""

    items: list = []

    def __init__(self, cfg):
        super().__init__(train_x=self.items, val=self.items[:2], test=self.items[2:])


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyForTests, "items", make_items(tmp_path))
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "TinyForTests"
    cfg.INPUT.SIZE = (16, 16)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    cfg.SEED = 1
    return cfg


def images_by_index(loader):
    rows = {}
    for batch in loader:
        rows |= {int(i): image for i, image in zip(batch["index"], batch["img"])}
    return rows


def same_images(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[i], second[i]) for i in first)


def test_a_datum_pickles_with_the_attributes_of_the_original():
    item = pickle.loads(pickle.dumps(Datum("a/b.jpg", 3, 1, "cat")))

    assert vars(item) == {"_impath": "a/b.jpg", "_label": 3, "_domain": 1, "_classname": "cat"}
    assert Datum.__module__ == "dassl.data.datasets.base_dataset"
    with pytest.raises(AttributeError):
        item.label = 4


def test_a_path_of_another_type_is_refused():
    with pytest.raises(TypeError, match="impath"):
        Datum(3)


def test_class_names_are_ordered_by_label():
    items = [Datum("x", 1, 0, "b"), Datum("y", 0, 0, "z"), Datum("x", 2, 0, "a")]

    dataset = DatasetBase(train_x=items, test=items)

    assert dataset.classnames == ["z", "b", "a"]
    assert dataset.num_classes == 3
    assert dataset.lab2cname == {0: "z", 1: "b", 2: "a"}


def test_a_gap_in_the_labels_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="Missing labels: 1"):
        DatasetBase(train_x=[Datum("x", 0, 0, "a"), Datum("x", 2, 0, "c")])


@pytest.mark.parametrize("items", [None, []])
def test_an_empty_training_list_is_an_error(items):
    with pytest.raises(ValueError, match="empty"):
        DatasetBase(train_x=items)


def test_test_images_of_classes_without_training_images_are_warned_about(caplog):
    train = [Datum("a", 0, 0, "zero"), Datum("b", 1, 0, "one")]

    DatasetBase(train_x=train, val=train, test=[*train, Datum("c", 2, 0, "two")])

    assert "1 of 3 test images have labels without training images (2)" in caplog.text
    assert "validation" not in caplog.text


def test_a_single_class_is_said_to_say_nothing(caplog):
    items = [Datum("a", 0, 0, "cat"), Datum("b", 0, 0, "cat")]

    warn_of_one_class(DatasetBase(train_x=items, test=items))

    assert 'has one class here, "cat"' in caplog.text
    assert "chance level 100%" in caplog.text


@pytest.mark.parametrize(
    ("read", "kind"),
    [({"uses_train": True, "uses_val": False}, "training"),
     ({"uses_train": False, "uses_val": True}, "validation")],
)  # fmt: skip
def test_test_images_whose_labels_are_read_are_named(caplog, read, kind):
    train, val = [Datum("a", 0, 0, "zero")], [Datum("b", 0, 0, "zero")]
    dataset = DatasetBase(train_x=train, val=val, test=[*train, *val, Datum("c", 0, 0, "zero")])

    warn_of_shared_images(dataset, **read)

    (record,) = caplog.records
    assert f"1 of 3 test images of DatasetBase are {kind} images too" in record.message


def test_shared_images_whose_labels_nothing_reads_are_not_named(caplog):
    items = [Datum("a", 0, 0, "zero")]

    warn_of_shared_images(
        DatasetBase(train_x=items, val=items, test=items), uses_train=False, uses_val=False
    )

    assert not caplog.records


def test_an_unknown_domain_gets_a_did_you_mean():
    dataset = DatasetBase(train_x=[Datum("x", 0, 0, "a")])
    dataset.domains = ["photo", "sketch"]

    dataset.check_input_domains(["photo"], ["sketch"])
    with pytest.raises(ValueError, match='"foto".*Did you mean "photo"'):
        dataset.check_input_domains(["foto"], [])


@pytest.mark.parametrize("key", ["SOURCE_DOMAINS", "TARGET_DOMAINS"])
def test_domains_of_a_dataset_without_any_are_refused(cfg, key):
    cfg.DATASET[key] = ("photo",)

    flag = f"--{key.lower().replace('_', '-')}"
    with pytest.raises(ValueError, match=rf"{key} is \('photo',\), but TinyForTests.*{flag}"):
        build_dataset(cfg)


def test_a_misspelt_dataset_gets_a_did_you_mean(cfg):
    cfg.DATASET.NAME = "TinyForTest"

    with pytest.raises(ValueError, match='Did you mean "TinyForTests"'):
        build_dataset(cfg)


def test_a_class_smaller_than_the_shots_is_kept_whole_with_a_warning(cfg, caplog):
    dataset = TinyForTests(cfg)
    random.seed(0)
    before = random.getstate()

    drawn = dataset.generate_fewshot_dataset(dataset.train_x, num_shots=6)

    assert drawn == dataset.train_x
    assert random.getstate() == before
    assert (
        '3 classes have fewer images than the 6 to draw (fewest: "class 0" with 5)' in caplog.text
    )


def test_less_than_one_shot_returns_the_input(cfg):
    dataset = TinyForTests(cfg)

    assert dataset.generate_fewshot_dataset(dataset.train_x) is dataset.train_x
    assert dataset.generate_fewshot_dataset([1], [2], num_shots=0) == ([1], [2])


def test_the_manager_builds_loaders_and_counts(cfg, capsys):
    manager = DataManager(cfg)

    batch = next(iter(manager.train_loader_x))
    assert batch["img"].shape == (4, 3, 16, 16)
    assert set(batch) == {"img", "label", "domain", "impath", "index"}
    assert len(manager.train_loader_x) == 3  # 15 images, the last partial batch is dropped
    assert manager.train_loader_u is None
    assert sum(len(batch["label"]) for batch in manager.test_loader) == 13
    assert manager.num_classes == CLASSES
    assert manager.lab2cname[2] == "class 2"
    printed = capsys.readouterr().out
    assert "# train_x" in printed
    assert "TinyForTests" in printed


def test_a_batch_larger_than_the_data_is_not_dropped(cfg):
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 100

    (batch,) = DataManager(cfg).train_loader_x

    assert len(batch["label"]) == 15


def test_augmentation_does_not_depend_on_the_number_of_workers(cfg):
    views = []
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        torch.manual_seed(0)
        loader = DataManager(cfg).train_loader_x
        views.append([images_by_index(loader) for _ in range(2)])

    for first, second in zip(*views):
        assert same_images(first, second)
    assert not same_images(*views[0])


def test_augmentation_follows_the_seed(cfg):
    views = []
    for seed in (1, 1, 2):
        cfg.SEED = seed
        torch.manual_seed(0)
        views.append(images_by_index(DataManager(cfg).train_loader_x))

    assert same_images(views[0], views[1])
    assert not same_images(views[0], views[2])


def test_worker_seeding_is_the_stream_of_a_plain_loader(cfg):
    cfg.DATALOADER.SEEDING = "worker"
    items = TinyForTests.items
    transform = build_transform(cfg, is_train=True)
    plain = torch.utils.data.DataLoader(
        DatasetWrapper(cfg, items, transform, is_train=True), 4, shuffle=True, drop_last=True
    )
    torch.manual_seed(3)
    expected = images_by_index(plain)
    torch.manual_seed(3)

    assert same_images(images_by_index(DataManager(cfg).train_loader_x), expected)


def test_an_unknown_seeding_is_refused(cfg):
    cfg.DATALOADER.SEEDING = "none"

    with pytest.raises(ValueError, match="SEEDING"):
        next(iter(DataManager(cfg).train_loader_x))


def test_cached_images_give_the_same_pixels(cfg):
    views = []
    for megabytes in (0, 64):
        cfg.DATALOADER.CACHE_MB = megabytes
        torch.manual_seed(0)
        loader = DataManager(cfg).train_loader_x
        views.append([images_by_index(loader) for _ in range(2)])

    for first, second in zip(*views):
        assert same_images(first, second)


def test_a_full_cache_reads_the_rest_from_disk(cfg):
    wrapper = DatasetWrapper(cfg, TinyForTests.items, build_transform(cfg), is_train=True)
    wrapper._cache_bytes = 2 * 20 * 30 * 3 + 1

    for index in range(len(wrapper)):
        assert wrapper[index]["img"].shape == (3, 16, 16)

    assert len(wrapper._cache) == 2


def test_several_transforms_give_several_images(cfg):
    manager = DataManager(cfg, custom_tfm_train=[build_transform(cfg), lambda image: 7])

    batch = next(iter(manager.train_loader_x))

    assert batch["img"].shape == (4, 3, 16, 16)
    assert batch["img2"].tolist() == [7] * 4


def test_k_transforms_and_img0(cfg):
    cfg.DATALOADER.K_TRANSFORMS = 2
    cfg.DATALOADER.RETURN_IMG0 = True
    manager = DataManager(cfg)

    train = next(iter(manager.train_loader_x))
    test = next(iter(manager.test_loader))

    assert [image.shape for image in train["img"]] == [(4, 3, 16, 16)] * 2
    assert not torch.equal(*train["img"])
    assert train["img0"].shape == (4, 3, 16, 16)
    assert test["img"].shape[1:] == (3, 16, 16)


def test_without_a_transform_items_are_pil_images(cfg):
    item = DatasetWrapper(cfg, TinyForTests.items)[0]

    assert item["img"].size == (30, 20)
    assert item["img"].mode == "RGB"


def test_of_a_folder_with_many_images_the_missing_ones_are_found(tmp_path, monkeypatch):
    names = [f"{i:03}.jpg" for i in range(100)]
    for name in names[1:]:
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(names[1])
    paths = [str(tmp_path / name) for name in [*names, "folder.jpg", "link.jpg"]]
    asked = []
    monkeypatch.setattr(
        checks.os.path, "isfile", lambda path, real=os.path.isfile: asked.append(path) or real(path)
    )

    found = checks._missing(paths)

    assert found == asked == [paths[0], str(tmp_path / "folder.jpg")]


def test_missing_images_stop_the_run_and_are_named(cfg):
    TinyForTests.items.append(Datum("nowhere/1.png", 0, 0, "class 0"))

    with pytest.raises(FileNotFoundError, match="1 of 16 images.*nowhere/1.png.*skip-bad"):
        DataManager(cfg)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_stops_the_run_with_its_path(cfg, tmp_path, workers):
    (tmp_path / "2_1.png").write_bytes(b"not an image")
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 5  # of 15: no image is dropped

    loader = DataManager(cfg).train_loader_x

    with pytest.raises(BadImageError) as info:
        list(loader)

    loader.end_workers()  # which the traceback keeps alive otherwise
    assert str(info.value).startswith(f"{tmp_path / '2_1.png'} is not a readable image")
    assert "\n" not in str(info.value)


def test_bad_images_can_be_left_out_and_are_counted(cfg, tmp_path, caplog, capsys):
    cfg.DATALOADER.SKIP_BAD_IMAGES = True
    (tmp_path / "0_0.png").write_bytes(b"no image")
    (tmp_path / "1_0.png").unlink()

    manager = DataManager(cfg)

    assert manager.skipped_images == {"train_x": 2, "val": 1, "test": 1}
    assert len(manager.dataset.train_x) == 13
    assert sum(len(batch["label"]) for batch in manager.test_loader) == 12
    assert "Left out 4" in caplog.text
    assert "left out" in capsys.readouterr().out


def test_only_what_changed_is_decoded_again_to_find_bad_images(cfg, tmp_path, monkeypatch):
    cfg.DATALOADER.SKIP_BAD_IMAGES = True
    (tmp_path / "0_0.png").write_bytes(b"no image")
    for path in tmp_path.glob("*.png"):
        os.utime(path, (0, 0))  # settled
    time.sleep(2 * file_index.TOO_FRESH)
    DataManager(cfg)
    (tmp_path / "1_0.png").write_bytes(b"damaged since")
    read, decoded = checks.read_image, []
    monkeypatch.setattr(checks, "read_image", lambda path: [decoded.append(path), read(path)][1])

    manager = DataManager(cfg)

    assert {Path(path).name for path in decoded} == {"0_0.png", "1_0.png"}
    assert sum(manager.skipped_images.values()) == 4


def test_a_class_without_a_readable_image_is_an_error(cfg, tmp_path):
    cfg.DATALOADER.SKIP_BAD_IMAGES = True
    for path in tmp_path.glob("2_*.png"):
        path.unlink()

    with pytest.raises(ValueError, match="class 2"):
        DataManager(cfg)


def test_an_empty_list_has_no_loader(cfg):
    with pytest.raises(ValueError, match="No images for a training loader"):
        build_data_loader(cfg, data_source=[], tfm=None)


def test_a_custom_wrapper_is_seeded_like_the_own_one(cfg):
    class Wrapper(DatasetWrapper):
        def __getitem__(self, index):
            return {"index": index, "img": torch.rand(2)}

    views = []
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        torch.manual_seed(0)
        manager = DataManager(cfg, dataset_wrapper=Wrapper)
        views.append(images_by_index(manager.train_loader_x))

    assert same_images(*views)
    assert manager.train_loader_x.dataset.data_source is TinyForTests.items


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_set_on_a_loader_s_dataset_counts_from_the_next_pass(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = DataManager(cfg).train_loader_x
    random_views = images_by_index(loader)  # the processes live on after this pass

    loader.dataset.transform = build_transform(cfg, is_train=False)
    first, second = images_by_index(loader), images_by_index(loader)

    for index in first.keys() & second.keys():
        assert torch.equal(first[index], second[index])
    assert not same_images(random_views, first)


def test_worker_processes_live_on_between_passes(cfg):
    class Wrapper(DatasetWrapper):
        def __getitem__(self, index):
            return os.getpid()

    cfg.DATALOADER.NUM_WORKERS = 1
    cfg.DATALOADER.TEST.BATCH_SIZE = 3
    loader = DataManager(cfg, dataset_wrapper=Wrapper).test_loader

    processes = {int(pid) for _ in range(2) for batch in loader for pid in batch}
    for _ in range(2):
        processes |= {int(pid) for pid in next(iter(loader))}  # a pass that is given up

    assert len(processes) == 1 and os.getpid() not in processes


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_can_be_copied_after_use(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = DataManager(cfg).test_loader
    expected = images_by_index(loader)

    copied = copy.deepcopy(loader)
    copied.dataset.transform = build_transform(cfg, is_train=True)

    assert not same_images(images_by_index(copied), expected)
    assert same_images(images_by_index(loader), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_inside_a_pass_disturbs_neither(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.TEST.BATCH_SIZE = 3
    loader = DataManager(cfg).test_loader
    expected = [batch["index"].tolist() for batch in loader]

    seen = []
    for batch in loader:
        seen.append(batch["index"].tolist())
        assert next(iter(loader))["index"].tolist() == expected[0]

    assert seen == expected


def test_an_item_taken_by_hand_is_another_view_each_time(cfg):
    dataset = DataManager(cfg).train_loader_x.dataset

    assert not torch.equal(dataset[0]["img"], dataset[0]["img"])

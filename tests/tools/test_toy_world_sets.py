"""Toy sets as datasets: rendered once, drawn like any other, split into base and new."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datasets
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, build_dataset
from datasets.toy_world import store
from datasets.toy_world.sets import DEFINITIONS, OBJECT_NAMES


def config(name: str, *options):
    cfg = get_cfg_default()
    cfg.DATASET.NAME = name
    cfg.SEED = 1
    cfg.VERBOSE = False
    cfg.merge_from_list(list(options))
    return cfg


def test_every_definition_has_a_registered_dataset_and_a_config():
    classes = map(DATASET_REGISTRY.get, DATASET_REGISTRY.registered_names())
    registered = {getattr(kind, "config", "") for kind in classes}
    folder = Path(datasets.__file__).resolve().parents[1] / "configs" / "datasets"

    assert set(store.SET_NAMES) <= registered
    assert set(store.SET_NAMES) <= {path.stem for path in folder.glob("*.yaml")}


def test_a_set_is_rendered_with_the_pixels_of_its_definition():
    folder = store.rendered("toy_layout")

    split, labels, images = next(iter(store.splits("toy_layout")))
    first = np.asarray(Image.open(folder / split / "02" / "0003.png"))

    np.testing.assert_array_equal(first, images[np.flatnonzero(labels == 2)[3]])


def test_a_rendered_set_is_not_rendered_again(monkeypatch):
    store.rendered("toy_layout")
    monkeypatch.setattr(store, "_write", lambda *args: pytest.fail("rendered twice"))

    assert store.rendered("toy_layout").is_dir()


@pytest.fixture
def small_layout(monkeypatch, tmp_path):
    """An empty cache, and two images per class in all of toy_layout: not the committed pixels."""
    sizes = {"train": 2}
    monkeypatch.setitem(DEFINITIONS, "toy_layout", replace(DEFINITIONS["toy_layout"], sizes=sizes))
    monkeypatch.setenv("VLTUNE_CACHE", str(tmp_path))


def test_other_pixels_than_the_committed_ones_are_refused(small_layout, tmp_path):
    with pytest.raises(RuntimeError, match="other pixels than the committed ones"):
        store.rendered("toy_layout")

    assert not list((tmp_path / "toy").glob("*/toy_layout"))


def test_an_unknown_set_is_named_with_the_closest_one():
    with pytest.raises(ValueError, match="toy_objects"):
        store.rendered("toy_object")


def test_two_processes_may_ask_for_one_set_at_once(small_layout, monkeypatch, tmp_path):
    digest = store.digest_of("toy_layout")
    monkeypatch.setattr(store, "digests", lambda: {"toy_layout": digest})

    with multiprocessing.get_context("fork").Pool(2) as pool:
        folders = pool.map(store.rendered, ["toy_layout"] * 2)

    assert folders[0] == folders[1]
    siblings = [path.name for path in (tmp_path / "toy").glob("*/*")]
    assert siblings == ["toy_layout"]


def test_few_shot_draws_have_the_asked_number_and_repeat_with_the_seed():
    first = build_dataset(config("ToyLayout", "DATASET.NUM_SHOTS", 4))
    again = build_dataset(config("ToyLayout", "DATASET.NUM_SHOTS", 4))
    other = build_dataset(config("ToyLayout", "DATASET.NUM_SHOTS", 4, "SEED", 2))

    assert len(first.train_x) == 4 * 5
    assert len(first.val) == 4 * 5
    drawn = [[item.impath for item in data.train_x] for data in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_class_names_are_those_of_the_definition():
    data = build_dataset(config("ToyLayout"))

    assert tuple(data.classnames) == DEFINITIONS["toy_layout"].classnames
    assert data.num_classes == 5


def test_variants_have_the_classes_of_the_main_set():
    data = build_dataset(config("ToyObjectsV2"))

    assert tuple(data.classnames) == OBJECT_NAMES
    assert len(data.test) == 1280


def test_base_and_new_halves_of_a_variant_share_nothing():
    base = build_dataset(config("ToyObjectsV2", "DATASET.SUBSAMPLE_CLASSES", "base"))
    new = build_dataset(config("ToyObjectsV2", "DATASET.SUBSAMPLE_CLASSES", "new"))

    assert tuple(base.classnames + new.classnames) == OBJECT_NAMES
    assert not {i.impath for i in base.test} & {i.impath for i in new.test}


def test_domains_leave_the_target_out():
    data = build_dataset(config("ToyDomains", "DATASET.TARGET_DOMAINS", ("sketch",)))

    assert data.domains == ["cartoon", "painting", "photo", "sketch"]
    assert {i.domain for i in data.train_x} == {0, 1, 2}
    assert {i.domain for i in data.test} == {3}
    assert len(data.test) == 1200
    assert data.classnames[0] == "arrow"

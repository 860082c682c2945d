"""Few-shot draws: the original's algorithm, the kept file, old pickles, base and new classes."""

import json
import logging
import os
import pickle
import random

import pytest
from dataset_trees import make_cfg, names, pets_tree, write_split

from dassl.data.datasets import Datum, build_dataset
from datasets.oxford_pets import OxfordPets


def build(root, **settings):
    return build_dataset(make_cfg(root, "OxfordPets", **settings))


def kept_file(root, name="shot_2-seed_1.json"):
    return root / "oxford_pets" / "split_fewshot" / name


def original_draw(entries, num_shots):
    groups = {}
    for path, label, _ in entries:
        groups.setdefault(label, []).append(path)
    return [path for group in groups.values() for path in random.sample(group, num_shots)]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_draw_takes_train_then_val_from_the_seeded_generator(tmp_path, seed):
    splits = pets_tree(tmp_path)
    random.seed(seed)
    expected = original_draw(splits["train"], 2), original_draw(splits["val"], 2)
    random.seed(99)

    dataset = build(tmp_path, NUM_SHOTS=2, SEED=seed)

    assert (names(dataset.train_x), names(dataset.val)) == expected


def test_a_draw_leaves_the_global_generator_alone(tmp_path):
    pets_tree(tmp_path)
    random.seed(5)
    expected = random.random()
    random.seed(5)

    build(tmp_path, NUM_SHOTS=2)

    assert random.random() == expected


def test_the_kept_draw_is_readable_and_has_relative_paths(tmp_path):
    pets_tree(tmp_path)

    dataset = build(tmp_path, NUM_SHOTS=2)

    content = json.loads(kept_file(tmp_path).read_text(encoding="utf-8"))
    assert [entry[0] for entry in content["train"]] == names(dataset.train_x)
    assert content["num_shots"] == 2 and content["seed"] == 1


def test_a_kept_draw_survives_moving_the_data(tmp_path):
    pets_tree(tmp_path / "a")
    first = build(tmp_path / "a", NUM_SHOTS=2)
    os.rename(tmp_path / "a", tmp_path / "b")

    second = build(tmp_path / "b", NUM_SHOTS=2)

    assert names(second.train_x) == names(first.train_x)


def test_a_draw_of_another_split_is_redrawn(tmp_path, caplog):
    splits = pets_tree(tmp_path)
    build(tmp_path, NUM_SHOTS=2)
    splits["train"] = splits["train"][::-1]
    write_split(tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json", splits)
    random.seed(1)
    expected = original_draw(splits["train"], 2)

    dataset = build(tmp_path, NUM_SHOTS=2)

    assert names(dataset.train_x) == expected
    assert "belongs to another split" in caplog.text


def test_a_damaged_kept_draw_is_redrawn(tmp_path, caplog):
    pets_tree(tmp_path)
    first = build(tmp_path, NUM_SHOTS=2)
    kept_file(tmp_path).write_text('{"train": [', encoding="utf-8")

    second = build(tmp_path, NUM_SHOTS=2)

    assert names(second.train_x) == names(first.train_x)
    assert "damaged" in caplog.text


def change_kept(path, change, *, keeps_digest=False):
    """Edit a kept draw by hand; unless it keeps it, without the digest that would show it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    if not keeps_digest:
        del content["drawn"]
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, "missing.jpg", "the split has no such image"),
        (1, 99, r"the split has \['.*', \d, 'breed_\d'\]"),
        (2, "dog", r"the split has \['.*', \d, 'breed_\d'\]"),
    ],
)
def test_a_drawn_record_that_is_not_the_split_s_is_refused(tmp_path, split, place, value, said):
    pets_tree(tmp_path)
    build(tmp_path, NUM_SHOTS=2)
    path = kept_file(tmp_path)

    change_kept(path, lambda content: content[split][0].__setitem__(place, value))

    with pytest.raises(ValueError, match=rf"{value}.*but {said}.*Delete .*{path.name}"):
        build(tmp_path, NUM_SHOTS=2)


def test_a_draw_that_was_changed_to_other_images_of_the_split_is_noticed(tmp_path):
    splits = pets_tree(tmp_path)
    build(tmp_path, NUM_SHOTS=2)
    path = kept_file(tmp_path)

    shots = splits["train"][::3]

    change_kept(path, lambda content: content.update(train=shots), keeps_digest=True)

    with pytest.raises(ValueError, match="damaged or edited.*delete only that entry to use the"):
        build(tmp_path, NUM_SHOTS=2)
    change_kept(path, lambda content: None)
    assert names(build(tmp_path, NUM_SHOTS=2).train_x) == [entry[0] for entry in shots]


def test_a_draw_of_more_shots_under_another_name_is_refused(tmp_path):
    pets_tree(tmp_path)
    build(tmp_path, NUM_SHOTS=2)
    os.rename(kept_file(tmp_path), kept_file(tmp_path, "shot_1-seed_1.json"))

    with pytest.raises(ValueError, match=r"holds 2 images of label \d, but DATASET.NUM_SHOTS is 1"):
        build(tmp_path, NUM_SHOTS=1)


def test_a_pickled_draw_of_another_split_is_refused(tmp_path):
    splits = pets_tree(tmp_path)
    path = kept_file(tmp_path).with_suffix(".pkl")
    path.parent.mkdir(parents=True)
    image, label, name = splits["train"][0]
    items = [Datum(f"/elsewhere/{image}", label + 1, 0, name)]
    path.write_bytes(pickle.dumps({"train": items, "val": []}))

    with pytest.raises(ValueError, match=rf"{path.name} holds .*, 2, .* but the split has .*, 1,"):
        build(tmp_path, NUM_SHOTS=2)


def test_without_a_seed_nothing_is_kept(tmp_path):
    pets_tree(tmp_path)

    build(tmp_path, NUM_SHOTS=2, SEED=-1)

    assert not kept_file(tmp_path).parent.exists()


def test_a_pickled_draw_of_the_original_is_read(tmp_path):
    splits = pets_tree(tmp_path)
    train = [Datum(f"/elsewhere/oxford_pets/images/{p}", n, 0, c) for p, n, c in splits["train"]]
    val = [Datum(rf"C:\data\images\{p}", n, 0, c) for p, n, c in splits["val"]]
    path = kept_file(tmp_path).with_suffix(".pkl")
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        pickle.dump({"train": train[::3], "val": val[::2]}, file)

    dataset = build(tmp_path, NUM_SHOTS=2)

    assert names(dataset.train_x) == [entry[0] for entry in splits["train"][::3]]
    assert names(dataset.val) == [entry[0] for entry in splits["val"][::2]]


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, caplog, monkeypatch):
    pets_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = kept_file(tmp_path).with_suffix(".pkl")
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"train": [Harmful()], "val": []}))

    dataset = build(tmp_path, NUM_SHOTS=2)

    assert len(dataset.train_x) == 10
    assert not (tmp_path / "made_by_a_pickle").exists()
    assert "is not used" in caplog.text


def test_shots_beyond_a_class_give_all_it_has_and_warn(tmp_path, caplog):
    pets_tree(tmp_path)

    with caplog.at_level(logging.WARNING):
        dataset = build(tmp_path, NUM_SHOTS=8)

    assert len(dataset.train_x) == 5 * 6
    assert caplog.text.count("5 classes have fewer images than the 8") == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        build(tmp_path, NUM_SHOTS=8)
    assert caplog.text.count("5 classes have fewer training images") == 1


@pytest.mark.parametrize(("val_shots", "expected"), [(-1, 10), (1, 5), (4, 10)])
def test_val_shots_choose_the_validation_list(tmp_path, val_shots, expected):
    pets_tree(tmp_path)

    dataset = build(tmp_path, NUM_SHOTS=2, VAL_SHOTS=val_shots)

    assert len(dataset.val) == expected


def test_val_shots_do_not_change_the_training_draw(tmp_path):
    pets_tree(tmp_path)

    draws = [names(build(tmp_path, NUM_SHOTS=2, VAL_SHOTS=n).train_x) for n in (-1, 1, 4)]

    assert draws[0] == draws[1] == draws[2]


def test_val_shots_of_zero_are_refused(tmp_path):
    pets_tree(tmp_path)

    with pytest.raises(ValueError, match="DATASET.VAL_SHOTS is 0"):
        build(tmp_path, NUM_SHOTS=2, VAL_SHOTS=0)


@pytest.mark.parametrize(("subsample", "labels"), [("base", [0, 1, 2]), ("new", [3, 4])])
def test_classes_are_chosen_after_the_draw(tmp_path, subsample, labels):
    pets_tree(tmp_path)
    whole = build(tmp_path, NUM_SHOTS=2)

    part = build(tmp_path, NUM_SHOTS=2, SUBSAMPLE_CLASSES=subsample)

    expected = [i for i in whole.train_x if i.label in labels]
    assert names(part.train_x) == names(expected)
    assert part.classnames == [f"breed_{label}" for label in labels]
    assert {i.label for i in part.test} == set(range(len(labels)))


def test_an_unknown_class_subset_is_refused(tmp_path):
    pets_tree(tmp_path)

    with pytest.raises(ValueError, match="SUBSAMPLE_CLASSES is 'novel'; expected one of all"):
        build(tmp_path, SUBSAMPLE_CLASSES="novel")


def test_subsampling_all_returns_the_lists_that_came_in():
    first, second = [Datum("a", 3, 0, "x")], [Datum("b", 3, 1, "x")]

    result = OxfordPets.subsample_classes(first, second, subsample="all")

    assert result == (first, second)


def test_split_trainval_draws_from_the_global_generator():
    items = [Datum(f"{label}{k}", label, 0, "x") for label in (2, 0) for k in range(10)]
    random.seed(3)
    expected = []
    for start in (0, 10):
        order = list(range(10))
        random.shuffle(order)
        expected += [items[start + i].impath for i in order[:2]]
    random.seed(3)

    train, val = OxfordPets.split_trainval(items)

    assert [i.impath for i in val] == expected
    assert len(train) == 16


def test_a_saved_split_reads_back(tmp_path):
    pets_tree(tmp_path)
    folder = tmp_path / "oxford_pets" / "images"
    file = tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json"
    lists = OxfordPets.read_split(str(file), str(folder))
    copy = tmp_path / "copy.json"

    OxfordPets.save_split(*lists, str(copy), str(folder))

    assert json.loads(copy.read_text()) == json.loads(file.read_text())

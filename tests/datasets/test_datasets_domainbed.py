"""DomainBed sets: folders, seeded splits, sources and targets."""

from pathlib import Path

import pytest
from dataset_trees import make_cfg, names, write_images

from dassl.data.datasets import build_dataset
from dassl.utils.image_files import LeftOut, images_below
from datasets.domain_split import split_domain
from datasets.files import images_by_class

PACS_SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "pacs_small"
DOMAINS = ("art_painting", "cartoon", "sketch")


def build(root, name="PACS", **settings):
    settings.setdefault("TARGET_DOMAINS", ("sketch",))
    return build_dataset(make_cfg(root, name, **settings))


def domain_tree(root, *, domains=DOMAINS, classes=("cat", "dog"), count=10):
    paths = [f"{d}/{c}/{d}_{c}_{k}.jpg" for d in domains for c in classes for k in range(count)]
    write_images(root, paths)


def test_sources_train_on_in_and_validate_on_out(tmp_path):
    domain_tree(tmp_path / "PACS")

    dataset = build(tmp_path)

    assert (len(dataset.train_x), len(dataset.val), len(dataset.test)) == (32, 8, 16)
    assert {i.domain for i in dataset.train_x} == {i.domain for i in dataset.val} == {0, 1}
    assert {i.domain for i in dataset.test} == {2}
    assert names(dataset.test) == names(dataset.all_domains["sketch"].in_items)
    assert len(dataset.all_domains["sketch"].out_items) == 4


def test_the_split_is_that_of_the_sorted_files(tmp_path):
    domain_tree(tmp_path / "PACS")
    files = [f"cartoon_{c}_{k}.jpg" for c in ("cat", "dog") for k in range(10)]
    out, kept = split_domain(20, domain=1, trial_seed=3)

    dataset = build(tmp_path, TRIAL_SEED=3)

    domain = dataset.all_domains["cartoon"]
    assert names(domain.out_items) == [files[k] for k in out]
    assert names(domain.in_items) == [files[k] for k in kept]


def test_the_split_depends_on_the_trial_seed_not_on_the_target(tmp_path):
    domain_tree(tmp_path / "PACS")

    def out(**settings):
        return names(build(tmp_path, **settings).all_domains["cartoon"].out_items)

    assert out(TRIAL_SEED=0, SEED=5) == out(TRIAL_SEED=0, TARGET_DOMAINS=("cartoon",))
    assert out(TRIAL_SEED=0) != out(TRIAL_SEED=1)


def test_trial_seed_minus_one_is_the_seed_even_zero(tmp_path):
    domain_tree(tmp_path / "PACS")

    by_seed = build(tmp_path, SEED=0)
    by_trial = build(tmp_path, SEED=7, TRIAL_SEED=0)

    assert names(by_seed.train_x) == names(by_trial.train_x)


def test_a_split_without_any_seed_is_refused(tmp_path):
    domain_tree(tmp_path / "PACS")

    with pytest.raises(ValueError, match="DATASET.TRIAL_SEED 0"):
        build(tmp_path, SEED=-1)


def test_a_missing_target_lists_the_domains(tmp_path):
    domain_tree(tmp_path / "PACS")

    with pytest.raises(ValueError, match="one of: art_painting, cartoon, sketch"):
        build(tmp_path, TARGET_DOMAINS=())


def test_an_unknown_domain_gets_a_suggestion(tmp_path):
    domain_tree(tmp_path / "PACS")

    with pytest.raises(ValueError, match='Did you mean "sketch"'):
        build(tmp_path, TARGET_DOMAINS=("skech",))


def test_a_domain_cannot_be_source_and_target(tmp_path):
    domain_tree(tmp_path / "PACS")

    with pytest.raises(ValueError, match="cartoon cannot be both"):
        build(tmp_path, SOURCE_DOMAINS=("cartoon",), TARGET_DOMAINS=("cartoon",))


def test_sources_can_be_named(tmp_path):
    domain_tree(tmp_path / "PACS")

    dataset = build(tmp_path, SOURCE_DOMAINS=("cartoon",))

    assert {i.domain for i in dataset.train_x} == {1}


def test_domains_with_different_classes_are_refused(tmp_path):
    domain_tree(tmp_path / "PACS")
    write_images(tmp_path / "PACS", ["cartoon/fox/a.jpg"])

    with pytest.raises(ValueError, match="different class folders: fox"):
        build(tmp_path)


def test_a_single_domain_is_refused(tmp_path):
    domain_tree(tmp_path / "PACS", domains=("photo",))

    with pytest.raises(FileNotFoundError, match="at least two domain folders"):
        build(tmp_path)


def test_an_empty_class_folder_is_named(tmp_path):
    domain_tree(tmp_path / "PACS")
    for domain in DOMAINS:
        (tmp_path / "PACS" / domain / "fox").mkdir()

    with pytest.raises(FileNotFoundError, match=r"No images in .*art_painting.*fox"):
        build(tmp_path)


def test_shots_are_per_class_and_source_domain(tmp_path):
    domain_tree(tmp_path / "PACS", count=20)

    dataset = build(tmp_path, NUM_SHOTS=3)
    again = build(tmp_path, NUM_SHOTS=3)

    counts = {}
    for item in dataset.train_x:
        counts[item.domain, item.label] = counts.get((item.domain, item.label), 0) + 1
    assert counts == {(d, c): 3 for d in (0, 1) for c in (0, 1)}
    assert names(dataset.train_x) == names(again.train_x)


def test_base_classes_keep_their_domain(tmp_path):
    domain_tree(tmp_path / "PACS", classes=("ant", "bee", "cat", "dog"))

    dataset = build(tmp_path, SUBSAMPLE_CLASSES="new")

    assert dataset.classnames == ["cat", "dog"]
    assert {i.domain for i in dataset.test} == {2}


def test_any_folder_of_domains_is_a_dataset(tmp_path):
    domain_tree(tmp_path)

    dataset = build(tmp_path, "DomainFolder")

    assert dataset.domains == list(DOMAINS)


def test_sub_folders_come_in_the_order_of_their_paths(tmp_path):
    domain_tree(tmp_path / "PACS", count=1)
    folder = tmp_path / "PACS" / "cartoon" / "cat"
    write_images(folder, ["b.jpg", "a/c.jpg", "a-b/d.jpg", "a/e/f.jpg"])

    files = [Path(path).relative_to(folder).as_posix() for path in images_below(folder, LeftOut())]

    assert files == ["b.jpg", "cartoon_cat_0.jpg", "a/c.jpg", "a-b/d.jpg", "a/e/f.jpg"]


@pytest.mark.parametrize("holdout", [0.0, 1.0])
def test_a_senseless_holdout_is_refused(tmp_path, holdout):
    domain_tree(tmp_path / "PACS")

    with pytest.raises(ValueError, match="DATASET.HOLDOUT is"):
        build(tmp_path, HOLDOUT=holdout)


def test_the_pacs_sample_is_read(tmp_path):
    if not PACS_SAMPLE.is_dir():
        pytest.skip(f"needs {PACS_SAMPLE}")
    (tmp_path / "PACS").symlink_to(PACS_SAMPLE)

    dataset = build(tmp_path)

    per_domain = {
        d: sum(map(len, images_by_class(PACS_SAMPLE / d, dataset="", section="").values()))
        for d in dataset.domains
    }
    n_out = {d: int(0.2 * n) for d, n in per_domain.items()}
    assert len(dataset.test) == per_domain["sketch"] - n_out["sketch"]
    assert len(dataset.val) == sum(n_out[d] for d in dataset.source_domains)

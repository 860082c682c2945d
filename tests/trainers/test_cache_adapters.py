"""Tip-Adapter, Tip-Adapter-F and CLIP-Adapter: search, class sums, selection rules, files."""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from few_shot_world import make_trainer, make_world, tiny_clip

import train
import trainers  # noqa: F401  (registers the trainers)
from dassl.utils import load_checkpoint
from tools.benchmarks.cache_adapters import search_plainly
from trainers.clip_adapter import CLIPAdapterSettings, ImageAdapter
from trainers.common.checkpoints import import_state
from trainers.common.text import encode as prompts
from trainers.tip_adapter import Cache, TipAdapter, TipAdapterSettings
from trainers.tip_adapter import scores as cache_logits
from trainers.tip_adapter.scores import ClassSums, Grid, cyclic_order, search, search_features

GRID = ("TRAINER.TIPADAPTER.SEARCH_STEP", "(4, 3)", "TRAINER.TIPADAPTER.AUGMENT_EPOCH", 2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images and backbone."""
    return make_world(tmp_path_factory.mktemp("cache"))


def problem(classes=5, shots=3, dim=16, count=40, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    centres = torch.randn(classes, dim, dtype=dtype)
    labels, key_labels = torch.randint(classes, (count,)), torch.arange(classes * shots) % classes
    key_labels = key_labels[torch.randperm(len(key_labels))]
    rows = [
        centres[chosen] + 1.5 * torch.randn(len(chosen), dim, dtype=dtype)
        for chosen in (labels, key_labels)
    ]
    features, keys = (F.normalize(row, dim=-1) for row in rows)
    classifier = F.normalize(centres + 2 * torch.randn(classes, dim, dtype=dtype), dim=-1)
    return Namespace(
        features=features,
        keys=keys,
        key_labels=key_labels,
        labels=labels,
        classifier=classifier,
        clip_logits=100 * features @ classifier.t(),
    )


@pytest.mark.parametrize("drop", [0, 2])
def test_the_search_gives_every_accuracy_and_the_winner_of_the_plain_loops(drop):
    p = problem()
    keys, key_labels = p.keys[drop:], p.key_labels[drop:]  # unbalanced classes with drop
    grid = Grid((12.0, 5.0), (7, 6))

    fast = search(p.clip_logits, p.features @ keys.t(), key_labels, p.labels, grid)

    values = F.one_hot(key_labels, 5).float()
    plain = search_plainly(p.features, keys, values, p.classifier, p.labels, grid)
    torch.testing.assert_close(fast.accuracy, plain.accuracy.double())
    assert (fast.beta, fast.alpha) == (plain.beta, plain.alpha)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_grid_as_large_as_the_official_one_has_the_winner_of_the_plain_loops(seed):
    p = problem(classes=7, shots=4, count=90, dtype=torch.float64, seed=seed)
    grid = Grid((12.0, 60.0), (200, 20))

    fast = search(p.clip_logits, p.features @ p.keys.t(), p.key_labels, p.labels, grid)

    values = F.one_hot(p.key_labels, 7).double()
    plain = search_plainly(p.features, p.keys, values, p.classifier, p.labels, grid)
    torch.testing.assert_close(fast.accuracy, plain.accuracy.double(), rtol=0, atol=1e-4)
    assert fast.accuracy.unique().numel() > 10  # the pair matters
    assert (fast.beta, fast.alpha) == (plain.beta, plain.alpha)


@pytest.mark.parametrize("matrix_bytes", [1, 4 * 15 * 16, 2**28])
def test_blocks_of_affinities_give_the_accuracies_of_the_whole_matrix(monkeypatch, matrix_bytes):
    p = problem()
    grid = Grid((7.0, 3.0), (12, 8))
    monkeypatch.setattr(cache_logits, "BLOCK_VALUES", 4 * 15)  # 4 rows in the processor's cache
    monkeypatch.setattr(cache_logits, "MATRIX_BYTES", matrix_bytes)

    blocks = search_features(p.clip_logits, p.features, p.keys, p.key_labels, p.labels, grid)

    whole = search(p.clip_logits, p.features @ p.keys.t(), p.key_labels, p.labels, grid)
    assert torch.equal(blocks.accuracy, whole.accuracy)
    assert (blocks.beta, blocks.alpha) == (whole.beta, whole.alpha)


def test_the_search_of_a_trainer_never_holds_more_affinities_than_its_budget(
    world, tmp_path, monkeypatch
):
    trainer = make_trainer(world, "TipAdapter", tmp_path, *GRID)
    trainer.train()
    whole = trainer.search_on("test")
    features, num_keys = trainer.test_loader.kept()[0], len(trainer.method.keys)
    sizes, affinities = [], cache_logits.affinities

    def recorded(rows, keys):
        sizes.append((len(rows), len(keys)))
        return affinities(rows, keys)

    monkeypatch.setattr(cache_logits, "affinities", recorded)
    monkeypatch.setattr(cache_logits, "BLOCK_VALUES", num_keys)
    monkeypatch.setattr(cache_logits, "MATRIX_BYTES", 4 * num_keys * 5)

    found = trainer.search_on("test")

    assert set(sizes[:-1]) == {(5, num_keys)}
    assert sum(rows for rows, _ in sizes) == len(features) > 5
    assert torch.equal(found.accuracy, whole.accuracy)


def test_ties_between_classes_go_to_the_first_and_ties_between_pairs_to_the_first():
    clip_logits = torch.zeros(2, 3)  # all classes tie in every setting
    affinities, key_labels = torch.zeros(2, 3), torch.arange(3)

    found = search(
        clip_logits, affinities, key_labels, torch.tensor([0, 1]), Grid((2.0, 2.0), (3, 3))
    )

    assert (found.accuracy == 50).all()
    assert (found.beta, found.alpha) == (0.1, 0.1)


def test_the_upper_ends_of_the_grid_are_excluded():
    grid = Grid((7.0, 3.0), (200, 20))

    assert (len(grid.betas), grid.betas[0]) == (200, 0.1)
    assert grid.betas[-1] == pytest.approx(7.0 - 6.9 / 200)
    assert grid.alphas[-1] == pytest.approx(3.0 - 2.9 / 20)


def test_class_sums_are_the_product_with_one_hot_values_in_any_order():
    columns, labels = torch.rand(4, 6), torch.tensor([2, 0, 1, 1, 2, 0])
    expected = columns @ F.one_hot(labels, 3).float()
    order = cyclic_order(labels)

    torch.testing.assert_close(ClassSums(labels, 3)(columns), expected)
    assert ClassSums(labels[order], 3).is_cyclic
    torch.testing.assert_close(ClassSums(labels[order], 3)(columns[:, order]), expected)


def test_fine_tuning_does_not_touch_the_keys_that_it_started_from():
    p = problem()
    cache = Cache(p.classifier, TipAdapterSettings(), is_trainable=True)
    cache.fill(p.keys, p.key_labels)
    before = p.keys.clone()

    cache.keys.data.add_(1.0)

    torch.testing.assert_close(p.keys, before)


@pytest.mark.parametrize(
    ("name", "views"),
    [("TipAdapter", "bank:10"), ("LinearProbe", "test"), ("ZeroshotCLIP", "none")],
)
def test_the_results_name_the_views_that_were_used_whatever_the_recipe_says(
    world, tmp_path, name, views
):
    trainer = make_trainer(world, name, tmp_path, "TRAIN.VIEWS", "fresh")

    assert trainer.view_mode == views


def test_without_a_search_the_initial_pair_is_used(world, tmp_path):
    trainer = make_trainer(world, "TipAdapter", tmp_path, *GRID)
    trainer.train()

    assert (trainer.method.beta, trainer.method.alpha) == (1.0, 1.17)
    assert trainer.selected_epoch == 0


def test_the_search_on_val_is_kept_in_the_checkpoint_that_predict_reads(world, tmp_path):
    trainer = make_trainer(world, "TipAdapter", tmp_path, *GRID, "TEST.SELECT_ON", "val")
    trainer.train()

    found = trainer.search_on("val")
    checkpoint = load_checkpoint(str(tmp_path / "tip_adapter" / "model.pth.tar-0"))
    assert checkpoint["state_dict"]["beta"] == found.beta
    predictor = TipAdapter.load_predictor(checkpoint, torch.device("cpu"))
    pixels = torch.rand(3, 3, 32, 32)
    raw = TipAdapter.encode_pixels(trainer.cfg, trainer.clip, trainer.method, pixels)
    features = trainer.method.image_features(raw)
    expected = trainer.method.logits(trainer.clip, features, trainer.method.clip_classifier)
    torch.testing.assert_close(predictor(pixels), expected.softmax(-1))


def test_the_published_rule_reports_the_better_of_best_epoch_and_search(world, tmp_path):
    trainer = make_trainer(world, "TipAdapterF", tmp_path, *GRID, "TEST.SELECT_ON", "test")
    trainer.train()

    reported = trainer.results["test"]["accuracy"]
    assert trainer.selection == "test"
    assert reported >= trainer.best_result
    checkpoint = load_checkpoint(str(tmp_path / "tip_adapter" / "model-best.pth.tar"))
    assert checkpoint["state_dict"]["alpha"] == trainer.method.alpha


def test_fine_tuning_with_val_keeps_the_last_epoch_and_searches(world, tmp_path):
    trainer = make_trainer(world, "TipAdapterF", tmp_path, *GRID, "TEST.SELECT_ON", "val")
    trainer.train()

    assert trainer.selected_epoch == 2
    assert not (tmp_path / "tip_adapter" / "model-best.pth.tar").exists()
    state = load_checkpoint(str(tmp_path / "tip_adapter" / "model.pth.tar-2"))["state_dict"]
    assert state["beta"] == trainer.search_on("val").beta


def test_a_cache_keeps_the_keys_of_the_classes_that_a_run_has():
    p = problem()
    cache = Cache(p.classifier[:2], TipAdapterSettings())
    state = {
        "keys": p.keys,
        "key_labels": p.key_labels,
        "beta": torch.tensor(2.0).double(),
        "alpha": torch.tensor(3.0).double(),
    }

    taken = import_state(cache, state, list("abcde"), ["d", "b"])

    expected = torch.isin(p.key_labels, torch.tensor([1, 3]))
    torch.testing.assert_close(taken["keys"], p.keys[expected])
    assert taken["key_labels"].tolist() == [
        {3: 0, 1: 1}[k] for k in p.key_labels[expected].tolist()
    ]


def test_clip_adapter_with_ratio_zero_is_zero_shot():
    clip, raw = tiny_clip(), torch.randn(4, 64)
    method = ImageAdapter(torch.randn(5, 64), CLIPAdapterSettings(ratio=0.0))

    torch.testing.assert_close(method.image_features(raw), F.normalize(raw, dim=-1))
    assert method.logits(clip, method.image_features(raw), method.text_features(clip)).shape == (
        4,
        5,
    )


def test_clip_adapter_takes_the_mean_of_several_templates(world, tmp_path):
    texts = ["a photo of a {}.", "art of the {}."]
    both, first, second = (
        make_trainer(world, "CLIPAdapter", tmp_path / str(i), "DATASET.TEMPLATES", given)
        for i, given in enumerate((texts, texts[:1], texts[1:]))
    )

    expected = (first.method.raw_text_features + second.method.raw_text_features) / 2

    torch.testing.assert_close(both.method.raw_text_features, expected)


def test_clip_adapter_encodes_its_prompts_once_per_run(world, tmp_path, monkeypatch):
    calls = []
    encode = prompts.encode_sentences
    monkeypatch.setattr(
        prompts, "encode_sentences", lambda *given: calls.append(1) or encode(*given)
    )

    make_trainer(world, "CLIPAdapter", tmp_path).train()

    assert len(calls) == 1


def test_searching_the_ratio_needs_labels_that_may_choose(world, tmp_path):
    with pytest.raises(ValueError, match="SEARCH_RATIO.*SELECT_ON val"):
        make_trainer(
            world, "CLIPAdapter", tmp_path, "TRAINER.CLIPADAPTER.SEARCH_RATIO", "(0.2, 0.6)"
        )


@pytest.mark.parametrize("trainer", ["TipAdapter", "LinearProbe"])
def test_a_method_fitted_by_training_is_not_evaluated_unfitted(trainer, tmp_path):
    words = ["--trainer", trainer, "--dataset", "toy_colors", "--output-dir", str(tmp_path / "run")]

    with pytest.raises(ValueError, match="--eval-only needs --model-dir"):
        train.main([*words, "--eval-only"])

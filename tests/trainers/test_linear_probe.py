"""The linear probe: its search fits no C twice; draws; runs."""

import numpy as np
import pytest
import torch
from few_shot_world import make_trainer, make_world

import trainers  # noqa: F401  (registers the trainers)
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import load_checkpoint
from trainers.linear_probe import LinearProbe, accuracy, fit_logistic_regression
from trainers.linear_probe.c_search import COARSE_C, draw_rows, search_c


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images and backbone."""
    return make_world(tmp_path_factory.mktemp("probe"))


def test_the_largest_c_wins_ties_of_the_coarse_search():
    path = search_c(lambda c: 0.5, num_step=1)

    assert path.kept == [pytest.approx(COARSE_C[0] / 10)]  # ties keep the left end


def test_a_fit_minimises_its_objective():
    rng = np.random.RandomState(0)
    features, labels = rng.randn(30, 4), np.arange(30) % 3
    weight, bias = fit_logistic_regression(features, labels, 0.5, tolerance=1e-9)
    w = torch.tensor(weight, requires_grad=True)
    b = torch.tensor(bias, requires_grad=True)

    logits = torch.tensor(features) @ w.t() + b
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
    (0.5 * w.square().sum() + 0.5 * loss).backward()

    assert w.grad.abs().max() < 1e-4 and b.grad.abs().max() < 1e-4


def test_two_classes_give_two_rows():
    features = np.array([[1.0, 0.0], [-1.0, 0.1], [1.2, 0.3], [-0.9, 0.0]])
    labels = np.array([0, 1, 0, 1])

    classifier = fit_logistic_regression(features, labels, 10.0)

    assert classifier[0].shape == (2, 2)
    assert accuracy(classifier, features, labels) == 1.0


def test_one_shot_per_class_fits_without_a_warning(recwarn):
    features, labels = np.random.RandomState(0).randn(30, 4), np.arange(30)

    fit_logistic_regression(features, labels, 1.0)

    assert [str(warning.message) for warning in recwarn] == []


def test_a_class_without_images_is_named():
    with pytest.raises(ValueError, match="no training image of 1 of 3 classes.*label 1"):
        fit_logistic_regression(np.eye(2), np.array([0, 2]), 1.0, num_classes=3)


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        fit_logistic_regression(np.eye(2), np.array([0, 0]), 1.0, num_classes=1)


def test_a_draw_from_a_validation_list_that_is_the_test_list_cannot_select_on_val(world, tmp_path):
    class SameLists(DATASET_REGISTRY.get("FewShotSquares")):
        def __init__(self, cfg):
            super().__init__(cfg)
            self._val = self._test

    pairs = ("TEST.SELECT_ON", "val", "TRAINER.LINEARPROBE.DRAW", "lpclip", "DATASET.NUM_SHOTS", 1)
    DATASET_REGISTRY.register(SameLists, force=True)

    with pytest.raises(ValueError, match="validation list .* is its test list.*DRAW coop"):
        make_trainer(world, "LinearProbe", tmp_path, *pairs, "DATASET.NAME", "SameLists")


def test_a_class_with_too_few_rows_is_named():
    with pytest.raises(ValueError, match="Class 1 has 1 images, 2 are asked for"):
        draw_rows([0, 0, 1], 2, np.random.RandomState(1))


def test_no_c_is_fitted_twice(world, tmp_path, monkeypatch):
    fitted = []

    def fit(features, labels, c, **options):
        fitted.append(c)
        return fit_logistic_regression(features, labels, c, **options)

    monkeypatch.setattr("trainers.linear_probe.trainer.fit_logistic_regression", fit)
    make_trainer(world, "LinearProbe", tmp_path, "TEST.SELECT_ON", "val").train()

    assert len(fitted) == len(set(fitted)) > len(COARSE_C)


@pytest.mark.parametrize("draw", ["coop", "lpclip"])
def test_a_run_searches_c_on_val_and_predict_reads_its_classifier(world, tmp_path, draw):
    pairs = ("TEST.SELECT_ON", "val", "TRAINER.LINEARPROBE.DRAW", draw, "DATASET.NUM_SHOTS", 2)
    trainer = make_trainer(world, "LinearProbe", tmp_path, *pairs)
    trainer.train()

    checkpoint = load_checkpoint(str(tmp_path / "linear_probe" / "model.pth.tar-0"))
    predictor = LinearProbe.load_predictor(checkpoint, torch.device("cpu"))
    assert checkpoint["C"] == trainer.chosen_c
    assert predictor(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    if draw == "lpclip":
        assert len(trainer.dm.dataset.train_x) == len(trainer.dm.dataset.val) == 6


def test_the_scripts_draw_takes_as_many_validation_images_as_asked(world, tmp_path):
    draw = ("TRAINER.LINEARPROBE.DRAW", "lpclip", "DATASET.NUM_SHOTS", 2)

    counts = [
        len(make_trainer(world, "LinearProbe", tmp_path, *draw, *more).dm.dataset.val)
        for more in ((), ("DATASET.VAL_SHOTS", 1))
    ]

    assert counts == [6, 3]


def test_a_coarse_search_needs_values_above_zero(world, tmp_path):
    with pytest.raises(ValueError, match="COARSE_C is .* expected .*above 0"):
        make_trainer(world, "LinearProbe", tmp_path, "TRAINER.LINEARPROBE.COARSE_C", (1.0, 0.0))


def test_with_last_the_given_c_is_used_and_nothing_is_searched(world, tmp_path):
    trainer = make_trainer(world, "LinearProbe", tmp_path, "TRAINER.LINEARPROBE.C", 0.25)
    trainer.train()

    assert trainer.chosen_c == 0.25
    assert trainer.results["test"]["accuracy"] > 50

"""The evaluator and the metrics."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as reference_matrix
from sklearn.metrics import f1_score

from dassl.config import get_cfg_default
from dassl.evaluation import EVALUATOR_REGISTRY, build_evaluator
from dassl.evaluation.evaluator import Classification, confusion_matrix, macro_f1
from dassl.metrics import compute_accuracy, compute_distance_matrix


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path)
    return cfg


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_and_the_confusion_matrix_equal_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 2, 3, 7], size=30)
    predicted = rng.integers(0, 9, size=30)

    expected = f1_score(truth, predicted, average="macro", labels=np.unique(truth))

    assert macro_f1(truth, predicted) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(
        confusion_matrix(truth, predicted),
        reference_matrix(truth, predicted, normalize="true"),
        rtol=1e-12,
    )


def test_reset_forgets_earlier_batches(cfg):
    evaluator = build_evaluator(cfg)
    evaluator.process(torch.eye(3), torch.tensor([1, 2, 0]))

    evaluator.reset()
    evaluator.process(torch.eye(3), torch.tensor([0, 1, 0]))

    assert evaluator.evaluate()["accuracy"] == pytest.approx(200 / 3)


def test_the_first_of_equal_scores_is_the_prediction(cfg):
    evaluator = build_evaluator(cfg)

    evaluator.process(torch.zeros(2, 4), torch.tensor([0, 3]))

    assert evaluator.evaluate()["accuracy"] == 50.0


def test_the_confusion_matrix_file_loads_with_weights_only(cfg, tmp_path):
    cfg.TEST.COMPUTE_CMAT = True
    evaluator = build_evaluator(cfg)

    evaluator.process(torch.eye(2), torch.tensor([0, 0]))
    evaluator.evaluate()

    matrix = torch.load(tmp_path / "cmat.pt", weights_only=True)
    assert matrix.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_evaluating_nothing_is_an_error(cfg):
    with pytest.raises(ValueError, match="empty"):
        build_evaluator(cfg).evaluate()


def test_nan_scores_are_no_result(cfg):
    evaluator = build_evaluator(cfg)

    evaluator.process(torch.tensor([[float("nan"), 0.0], [1.0, 0.0]]), torch.tensor([1, 0]))

    with pytest.raises(FloatingPointError, match="1 of 2 images are NaN or infinite.*weights"):
        evaluator.evaluate()


def test_scores_that_tell_no_class_apart_are_named(cfg, caplog):
    evaluator = build_evaluator(cfg)

    evaluator.process(torch.tensor([[2.0, 2.0], [1.0, 0.0]]), torch.tensor([1, 0]))
    evaluator.evaluate()
    assert not caplog.records

    evaluator.reset()
    evaluator.process(torch.zeros(3, 2), torch.tensor([1, 0, 1]))
    evaluator.evaluate()
    assert "the same score for all classes" in caplog.text


def test_a_class_that_is_masked_out_is_a_score(cfg):
    evaluator = build_evaluator(cfg)

    evaluator.process(torch.tensor([[float("-inf"), 0.0]]), torch.tensor([1]))

    assert evaluator.evaluate()["accuracy"] == 100.0


def test_per_class_results_need_class_names(cfg):
    cfg.TEST.PER_CLASS_RESULT = True

    with pytest.raises(ValueError, match="lab2cname"):
        build_evaluator(cfg)


def test_a_misspelt_evaluator_is_answered_with_the_known_one(cfg):
    cfg.TEST.EVALUATOR = "Clasification"

    with pytest.raises(ValueError, match="'Clasification'; expected Classification"):
        build_evaluator(cfg)


def test_the_registry_holds_the_evaluator():
    assert EVALUATOR_REGISTRY.get("Classification") is Classification


def test_top_k_accuracy_works_for_several_k():
    output = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    target = torch.tensor([2, 0, 0])

    top1, top2 = compute_accuracy(output, target, topk=(1, 2))

    assert top1.shape == (1,)
    assert top1.item() == pytest.approx(100 / 3)
    assert top2.item() == pytest.approx(200 / 3)


def test_the_first_of_several_outputs_counts_for_accuracy():
    output = torch.eye(3)

    assert compute_accuracy((output, None), torch.arange(3))[0].item() == 100.0


def test_more_ranks_than_classes_are_refused():
    with pytest.raises(ValueError, match="top-5"):
        compute_accuracy(torch.eye(3), torch.arange(3), topk=(1, 5))


def test_an_unknown_distance_gets_a_did_you_mean():
    with pytest.raises(ValueError, match='Did you mean "cosine"'):
        compute_distance_matrix(torch.eye(3), torch.eye(3), "cosin")

"""What a run averages, searches or selects is what it tests, saves and predicts with.

What should be chosen is computed here from the recorded states; that predictions come from what is
saved is tested in tests/test_battery.py.
"""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from small_configs import TRAINERS, is_step_based
from watched_runs import (
    BEST_EPOCH,
    SELECTS_NOTHING,
    checkpoint_of,
    evaluated,
    loaded,
    standard,
    standard_config,
    watched,
)

from dassl.engine.state.checkpoints import find_checkpoint
from dassl.utils import load_checkpoint

SWAD = ("NaiveKD", "VL2VADiP", "VL2VAlign", "VL2VDistill", "VL2VSD")
BEST = ("ERM", "LP", "LPFT", "MIRO")
LABELS_CHOOSE_SETTINGS = ("DMN", "LinearProbe", "TipAdapter", "TipAdapterF")
EPOCHS = [
    name
    for name in TRAINERS
    if not is_step_based(name) and name not in (*SELECTS_NOTHING, *LABELS_CHOOSE_SETTINGS)
]


def assert_same(found, expected, **tolerance):
    """Two states are the same tensors, bit for bit without a tolerance."""
    assert found.keys() == expected.keys()
    for key, value in found.items():
        if tolerance:
            torch.testing.assert_close(value, expected[key], **tolerance)
        else:
            assert torch.equal(value, expected[key]), key


def network(state):
    """The part of a step-based trainer's state that is saved."""
    return {key: value for key, value in state.items() if not key.startswith("objective.")}


# --------------------------------------------------------------------- selected
@pytest.mark.parametrize("name", EPOCHS)
def test_the_epoch_with_the_best_validation_accuracy_is_tested_and_saved(name, battery):
    run = standard(name, battery)
    part = run.last
    expected = dict(part.epochs[BEST_EPOCH - 1])
    if name == "CLIPAdapter":
        expected["ratio"] = torch.tensor(0.9)  # the second of SEARCH_RATIO

    split, tested, _ = part.tests[-1]

    assert (split, run.trainer.selected_epoch) == ("test", BEST_EPOCH)
    assert_same(tested, expected)
    assert_same(checkpoint_of(run)["state_dict"], expected)


@pytest.mark.parametrize("name", EPOCHS)
def test_the_last_epoch_is_tested_and_saved_where_nothing_is_selected(name, battery):
    output = str(battery / f"last_{name}")
    pairs = ["OUTPUT_DIR", output, "TEST.SELECT_ON", "last", "OPTIM.MAX_EPOCH", "2"]
    pairs += ["TRAINER.TaskRes.ENHANCED_BASE", "none"] if name == "TaskRes" else []
    pairs += ["TRAINER.CLIPADAPTER.SEARCH_RATIO", "()"] if name == "CLIPAdapter" else []

    run = watched(standard_config(name, battery, *pairs))

    (split, tested, _), expected = run.last.tests[-1], run.last.epochs[-1]
    assert split == "test" and len(run.last.tests) == 1
    assert_same(tested, expected)
    assert_same(checkpoint_of(run)["state_dict"], expected)


@pytest.mark.parametrize("name", BEST)
def test_the_best_step_on_the_source_domains_is_deployed(name, battery):
    run = standard(name, battery)

    assert run.trainer.selected_epoch == BEST_EPOCH
    assert_same(checkpoint_of(run)["state_dict"], network(run.last.steps[2]))


@pytest.mark.parametrize("name", ["LPFT", "VL2VADiP"])
def test_a_stage_starts_from_the_best_step_of_the_stage_before(name, battery):
    first, second = standard(name, battery).parts

    assert_same(network(second.first), network(first.steps[2]))


# --------------------------------------------------------------------- averaged
def test_promptsrcs_gaussian_average_is_tested_and_saved(battery):
    run = standard("PromptSRC", battery)
    part, node = run.last, run.cfg.TRAINER.PROMPTSRC
    weights = [
        math.exp(-((e - node.GPA_MEAN) ** 2) / (2 * node.GPA_STD**2))
        for e in range(1, len(part.epochs) + 1)
    ]
    expected = {
        key: sum(w * state[key] for w, state in zip(weights, part.epochs)) / sum(weights)
        if key in part.moved
        else value
        for key, value in part.epochs[-1].items()
    }

    assert len(part.epochs) > 1
    assert_same(part.tests[-1][1], expected, rtol=1e-5, atol=1e-7)
    assert_same(checkpoint_of(run)["state_dict"], part.tests[-1][1])


@pytest.mark.parametrize("name", SWAD)
def test_swads_average_over_its_steps_is_deployed(name, battery):
    for part in standard(name, battery).parts:
        results = part.trainer.results["SWAD"]
        segment = part.steps[int(results["start"]) : int(results["end"]) + 1]
        expected = {
            key: torch.stack([state[key] for state in segment]).mean(dim=0)
            if key in part.moved
            else value
            for key, value in network(part.steps[-1]).items()
        }

        saved = load_checkpoint(str(find_checkpoint(part.trainer.output_dir, "network")))

        assert (results["start"], results["end"]) == (1, 4)
        assert_same(saved["state_dict"], expected, rtol=1e-5, atol=1e-6)
    assert_same(checkpoint_of(standard(name, battery))["state_dict"], saved["state_dict"])


# --------------------------------------------------------------------- searched
def correct(logits, labels) -> int:
    return int((logits.argmax(dim=-1) == labels).sum())


@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])
def test_the_pair_that_is_best_on_the_validation_images_is_tested_and_saved(name, battery):
    run = standard(name, battery)
    tested, node = run.last.tests[-1][1], run.cfg.TRAINER.TIPADAPTER
    method, loader = loaded(name, battery).method, run.trainer.val_loader
    features, clip_logits = loader.kept()
    grid = [
        [0.1 + i * (scale - 0.1) / steps for i in range(steps)]
        for scale, steps in zip(node.SEARCH_SCALE, node.SEARCH_STEP)
    ]
    values = torch.nn.functional.one_hot(method.key_labels, 3).float()
    best = (-1, 0.0, 0.0)
    for beta in grid[0]:
        for alpha in grid[1]:
            cache = torch.exp(-beta * (1 - features @ tested["keys"].t())) @ values
            hits = correct(clip_logits + alpha * cache, loader.labels)
            best = max(best, (hits, beta, alpha), key=lambda found: found[0])

    assert [tested["beta"].item(), tested["alpha"].item()] == pytest.approx(best[1:])
    assert best[1:] != (node.INIT_BETA, node.INIT_ALPHA)
    assert_same(checkpoint_of(run)["state_dict"], tested)
    if name == "TipAdapterF":
        assert torch.equal(tested["keys"], run.last.epochs[-1]["keys"])


def test_the_fusion_weights_that_are_best_on_the_validation_stream_are_tested_and_saved(battery):
    run = standard("DMN", battery)
    tested, seen = run.last.tests[-1][1], []
    trainer = loaded("DMN", battery)
    search = trainer.learn_from_labels
    trainer.learn_from_labels = lambda *given: (seen.append(given), search(*given))
    trainer.method.alpha.copy_(torch.tensor([1.0, 1.0, 0.3]))

    trainer.run_stream("val")

    (_, scores, labels), weights = seen[0], tested["alpha"].tolist()
    parts = [scores[kind] for kind in ("text", "dynamic", "static")]
    grid = np.random.RandomState(0).uniform(0, 10, size=(200, 2)).tolist()
    hits = [
        correct(parts[0] + a2 * parts[1] + a3 * parts[2], labels) for a2, a3 in [weights[1:], *grid]
    ]
    assert hits[0] == max(hits)
    assert torch.equal(trainer.method.alpha, tested["alpha"])
    assert_same(checkpoint_of(run)["state_dict"], tested)
    trainer.load_model(str(run.output))


def test_the_probe_whose_c_is_best_on_the_validation_images_is_tested_and_saved(battery):
    run = standard("LinearProbe", battery)
    tested, checkpoint, node = (
        run.last.tests[-1][1],
        checkpoint_of(run),
        run.cfg.TRAINER.LINEARPROBE,
    )
    splits = run.trainer.train_loader_x.items, run.trainer.val_loader.items
    rows = [run.trainer.bank.test(items).all(view=0).double().numpy() for items in splits]
    labels = [np.array([item.label for item in items]) for items in splits]

    def fit(c):
        model = LogisticRegression(C=c, max_iter=node.MAX_ITER, tol=node.TOLERANCE)
        return model.fit(rows[0], labels[0])

    chosen, coarse = fit(checkpoint["C"]), [fit(c) for c in node.COARSE_C]

    best = max(model.score(rows[1], labels[1]) for model in coarse)
    assert chosen.score(rows[1], labels[1]) >= best
    weight, default = (torch.tensor(model.coef_).float() for model in (chosen, fit(node.C)))
    torch.testing.assert_close(tested["weight"], weight, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(default, weight, rtol=0.1)
    assert_same(checkpoint["state_dict"], tested)


def test_the_accuracy_of_a_run_is_that_of_its_deployed_weights(battery):
    for name in SWAD:
        trainer = standard(name, battery).last.trainer
        labels = trainer.evaluation.parts["test_in"].labels
        accuracy = 100.0 * correct(evaluated(loaded(name, battery)), labels) / len(labels)

        assert trainer.results["test"]["accuracy"] == pytest.approx(accuracy)

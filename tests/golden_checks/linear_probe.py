"""Linear probe: the script's draws, the search for C, converged fits."""

import math

import numpy as np

from golden_checks.common import Case
from trainers.common.c_search import COARSE_C, lpclip_rows, search_c
from trainers.linear_probe import fit_logistic_regression

CONVERGED = {"max_iter": 100_000, "tolerance": 1e-9}


def check(case: Case) -> None:
    if "score_curve" in case.config:
        check_search(case)
    if any(name.startswith("sel_train") for name in case.arrays):
        check_draws(case)
    if "fit_coef" in case.arrays:
        check_fits(case)


def check_draws(case: Case) -> None:
    labels = case.arrays["train_y"], case.arrays["val_y"]
    for shots, val_shots in case.config["val_shots"].items():
        for run in range(1, case.config["num_run"] + 1):
            train, val = lpclip_rows(*labels, shots=int(shots), seed=run)
            case.compare(f"sel_train_shot{shots}_run{run}", train)
            case.compare(f"sel_val_shot{shots}_run{run}", val)
            assert len(val) == val_shots * len(np.unique(labels[1]))


def check_search(case: Case) -> None:
    config = case.config
    assert list(COARSE_C) == config["coarse_C"]
    classes, num_test = len(np.unique(case.arrays["val_y"])), len(case.arrays["test_y"])
    coarse, evaluated, kept, tested = [], [], [], []
    for shots, val_shots in config["val_shots"].items():
        on_val = _curve(config["score_curve"], "val", shots, classes * val_shots)
        on_test = _curve(config["score_curve"], "test", shots, num_test)
        path = search_c(on_val, config["num_step"])
        coarse.append(path.coarse)
        evaluated.append(path.evaluated)
        kept.append(path.kept)
        tested.append([round(100 * on_test(c), 2) for c in path.kept])
    case.compare("search_val_coarse", coarse)
    case.compare("search_all_C", evaluated)
    case.compare("search_C_kept", kept)
    case.compare("search_test_acc", tested)


def _curve(curve: dict, split: str, shots: str, count: int):
    """The case's prescribed accuracy as a function of C."""

    def score(c: float) -> float:
        distance = abs(math.log10(c) - curve[f"{split}_peak"][shots])
        return math.floor((curve[f"{split}_max"] - curve["slope"] * distance) * count) / count

    return score


def check_fits(case: Case) -> None:
    rows = case.arrays["sel_train_shot4_run1"]
    features = case.arrays["train_x"][rows].astype(np.float64)
    labels, test = case.arrays["train_y"][rows], case.arrays["test_x"].astype(np.float64)
    fits = [fit_logistic_regression(features, labels, c, **CONVERGED) for c in case.config["fit_C"]]
    weights, biases = (np.stack(part) for part in zip(*fits))
    expected = [case.arrays[name] for name in ("fit_coef", "fit_intercept")]
    if expected[1].shape[1] == 1:  # the solver's one row for two classes is their difference
        expected = [np.concatenate([-part, part], axis=1) / 2 for part in expected]
    case.compare("fit_coef", weights, expected[0])
    centred = [bias - bias.mean(axis=1, keepdims=True) for bias in (biases, expected[1])]
    case.compare("fit_intercept", *centred)
    scores = np.einsum("nd,fcd->fnc", test, weights) + biases[:, None]
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    case.compare("fit_test_proba", powers / powers.sum(axis=-1, keepdims=True))

"""Linear probe: the script's draws, the search for C, converged fits; all in the trainer."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch

import trainers.linear_probe.trainer
from golden_checks.common import Case
from golden_checks.shipped import Shipped, batch
from golden_checks.stored import StoredClip
from trainers.linear_probe.c_search import SearchPath, search_c

CONVERGED = {"MAX_ITER": 100_000, "TOLERANCE": 1e-9}


def check(case: Case) -> None:
    if "score_curve" in case.config:
        check_search(case)
    if any(name.startswith("sel_train") for name in case.arrays):
        check_draws(case)
    if "fit_coef" in case.arrays:
        check_fits(case)


def _shipped(case: Case, shots: int, run: int, rule: str, **settings: Any) -> Shipped:
    """The trainer over the whole splits, from which it draws as the script does."""
    splits = {
        split: batch(case.tensor(f"{split}_x").float(), case.tensor(f"{split}_y"))
        for split in ("train", "val", "test")
    }
    classes, width = len(np.unique(case.arrays["val_y"])), case.arrays["train_x"].shape[1]
    clip = StoredClip(torch.zeros(classes, width))
    held_out = case.config["val_shots"].get(str(shots), 4)
    if held_out != min(shots, 4):
        settings["DATASET.VAL_SHOTS"] = held_out
    return Shipped(
        case,
        "LinearProbe",
        [splits["train"]],
        test=splits["test"],
        classnames=clip.classnames,
        parts={"clip": clip, "val": [splits["val"]]},
        **dict.fromkeys(case.config),  # what the checks below put to use
        **{
            "SEED": run,
            "DRAW": "lpclip",
            "DATASET.NUM_SHOTS": shots,
            "TEST.SELECT_ON": rule,
            **settings,
        },
    )


def _places(items: list) -> list[int]:
    """Rows of the whole split: the given images are called <split>/<row>."""
    return [int(item.impath.split("/")[1]) for item in items]


def check_draws(case: Case) -> None:
    for shots, val_shots in case.config["val_shots"].items():
        for run in range(1, case.config["num_run"] + 1):
            trainer = _shipped(case, int(shots), run, "last").trainer
            train, val = (_places(loader.items) for loader in _loaders(trainer))
            case.compare(f"sel_train_shot{shots}_run{run}", train)
            case.compare(f"sel_val_shot{shots}_run{run}", val)
            assert len(val) == val_shots * len(np.unique(case.arrays["val_y"]))


def _loaders(trainer) -> tuple:
    return trainer.train_loader_x, trainer.val_loader


def check_search(case: Case) -> None:
    """The trainer's search; only the accuracy of a C is the case's prescribed one."""
    config = case.config
    classes, num_test = len(np.unique(case.arrays["val_y"])), len(case.arrays["test_y"])
    paths, tested = [], []
    for shots, val_shots in config["val_shots"].items():
        on_val = _curve(config["score_curve"], "val", shots, classes * val_shots)
        on_test = _curve(config["score_curve"], "test", shots, num_test)
        paths.append(_search(case, int(shots), on_val))
        tested.append([round(100 * on_test(c), 2) for c in paths[-1].kept])
    case.compare("search_val_coarse", [path.coarse for path in paths])
    case.compare("search_all_C", [path.evaluated for path in paths])
    case.compare("search_C_kept", [path.kept for path in paths])
    case.compare("search_test_acc", tested)


def _search(case: Case, shots: int, score: Callable[[float], float]) -> SearchPath:
    """What the trainer looks at when a fit with C scores score(C)."""
    paths = []
    steps, grid = case.config["num_step"], case.config["coarse_C"]
    run = _shipped(case, shots, 1, "val", NUM_STEP=steps, COARSE_C=grid)
    method = run.method

    def fit(features: Any, labels: Any, c: float, **_: Any) -> Any:
        return Fit((method.weight.numpy(), method.bias.numpy()), c)

    def watched(*args: Any, **options: Any) -> SearchPath:
        paths.append(search_c(*args, **options))
        return paths[-1]

    scored = {"accuracy": lambda fitted, *_: score(fitted.c), "search_c": watched}
    with mock.patch.multiple(trainers.linear_probe.trainer, fit_logistic_regression=fit, **scored):
        run.trainer.train()
    assert run.trainer.chosen_c == paths[0].kept[-1]
    return paths[0]


class Fit(tuple):
    """Weight and bias that know their C."""

    def __new__(cls, parts: tuple, c: float) -> "Fit":
        fitted = super().__new__(cls, parts)
        fitted.c = c
        return fitted


def _curve(curve: dict, split: str, shots: str, count: int) -> Callable[[float], float]:
    """The case's prescribed accuracy as a function of C."""

    def score(c: float) -> float:
        distance = abs(math.log10(c) - curve[f"{split}_peak"][shots])
        return math.floor((curve[f"{split}_max"] - curve["slope"] * distance) * count) / count

    return score


def check_fits(case: Case) -> None:
    """Fits of the 4-shot draw with a given C, and what the evaluation makes of them."""
    weights, biases, probabilities = [], [], []
    for c in case.config["fit_C"]:
        run = _shipped(case, 4, 1, "last", C=c, **CONVERGED)
        run.trainer.train()
        weights.append(run.method.weight)
        biases.append(run.method.bias)
        probabilities.append(run.logits.softmax(dim=-1))
    expected = [case.tensor(name) for name in ("fit_coef", "fit_intercept")]
    if expected[1].shape[1] == 1:  # the solver's one row for two classes is their difference
        expected = [torch.cat([-part, part], dim=1) / 2 for part in expected]
    case.compare("fit_coef", torch.stack(weights), expected[0])
    centred = [part - part.mean(dim=1, keepdim=True) for part in (torch.stack(biases), expected[1])]
    case.compare("fit_intercept", *centred)
    case.compare("fit_test_proba", torch.stack(probabilities))

"""SWAD: the queue logic alone, and the loop around it on a scripted parameter trajectory."""

import math

import numpy as np
import torch

from golden_checks.common import Case
from trainers.common.step_selection import StepSelection
from trainers.common.swad import LossValley, Segment


def check(case: Case) -> None:
    if "trajectory" in case.arrays:
        _check_run(case)
    else:
        _check_valley(case)


def _valley(config: dict) -> LossValley:
    return LossValley(config["n_converge"], config["n_tolerance"], config["tolerance_ratio"])


def _check_valley(case: Case) -> None:
    valley = _valley(case.config)
    arrays = case.arrays
    converged_at, dead_at, history = -1, -1, []
    for i, values in enumerate(case.tensor("segments")):
        bounds = int(arrays["start_steps"][i]), int(arrays["end_steps"][i])
        valley.update(Segment([values.clone()], *bounds, 1, float(arrays["val_losses_f64"][i])))
        if valley.converge_step is not None and converged_at < 0:
            converged_at = i
        history.append(-1 if valley.mean is None else valley.mean.count)
        if valley.dead:
            dead_at = i
            break
    final = valley.final()

    case.compare("final_params", final.params[0])
    case.compare("final_start", np.int64(final.start))
    case.compare("final_end", np.int64(final.end))
    case.compare("n_averaged", np.int64(final.count))
    case.compare("converged_at", np.int64(converged_at))
    case.compare("dead_at", np.int64(dead_at))
    step = -1 if valley.converge_step is None else valley.converge_step
    case.compare("converge_step", np.int64(step))
    case.compare("n_averaged_history", np.asarray(history, dtype=np.int64))
    if math.isnan(float(arrays["threshold_f64"])):
        assert math.isnan(valley.threshold)
    else:
        case.compare("threshold_f64", np.float64(valley.threshold))


def _check_run(case: Case) -> None:
    config, arrays = case.config, case.arrays
    selection = StepSelection(
        model_save=config["model_save"],
        valley=_valley(config) if config["swad"] else None,
        reset=config["segment_reset"],
    )
    trajectory = case.tensor("trajectory")
    evaluations, saved, reported = 0, torch.full_like(trajectory[0], -999.0), float("nan")
    for step in range(config["n_steps"]):
        selection.after_step([trajectory[step]], step)
        if step % config["checkpoint_freq"]:
            continue
        decision = selection.after_evaluation(
            step,
            train_out=float(arrays["train_out_f64"][evaluations]),
            loss=float(arrays["val_losses_f64"][evaluations]),
        )
        if decision.save:
            saved = trajectory[step]
        if decision.report:
            reported = float(arrays["test_in_f64"][evaluations])
        evaluations += 1
        if decision.stop:
            break

    case.compare("checkpoints_run", np.int64(evaluations))
    case.compare("saved_step", np.int64(selection.saved_step))
    case.compare("saved_params", saved)
    case.compare("selected_test_in_f64", np.float64(reported))
    if config["swad"]:
        final = selection.swad()
        case.compare("swad_params", final.params[0])
        case.compare("swad_start", np.int64(final.start))
        case.compare("swad_end", np.int64(final.end))
        case.compare("swad_n", np.int64(final.count))

"""SWAD: the queue logic alone, and step-based runs on a scripted trajectory of parameters."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dassl.engine.state.checkpoints import BEST
from dassl.engine.steps.trainer import StepTrainer
from dassl.evaluation.predictions import ScoredImages
from dassl.modeling.heads import Objective, Student, StudentClassifier
from dassl.optim.swad import LossValley, Segment
from dassl.utils import load_checkpoint
from golden_checks import runs
from golden_checks.common import Case


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


class _Scripted(Objective):
    """Moves the parameters to the batch's: half the squared distance, for SGD with rate 1."""

    def outputs(self, network: StudentClassifier, images: Tensor) -> Tensor:
        return network.student.network.point - images[0]

    def losses(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": outputs.square().sum() / 2}


class _Point(nn.Module):
    """A student that is nothing but parameters."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.point = nn.Parameter(values.clone())

    def forward(self, images: Tensor) -> Tensor:
        return self.point.expand(len(images), -1)


def _trainer(case: Case, output: str) -> StepTrainer:
    """A step-based trainer whose steps and evaluations are those of the case."""
    config, arrays = case.config, case.arrays

    class Scripted(StepTrainer):
        trained_parts = ("student",)

        def build_objective(self) -> Objective:
            return _Scripted()

        def evaluate_sources(self) -> dict[str, float]:
            return self._scripted("train_out_f64", "val_losses_f64")

        def evaluate_target(self, *, report: bool) -> dict[str, float]:
            self.scored["test"] = ScoredImages([torch.tensor([[0.0, -1.0]])], [torch.zeros(1)])
            return {"test_in": self._scripted("test_in_f64", "val_losses_f64")["train_out"]}

        def _scripted(self, accuracy: str, loss: str) -> dict[str, float]:
            number = self.step // config["checkpoint_freq"]
            values = float(arrays[accuracy][number]), float(arrays[loss][number])
            return dict(zip(("train_out", "tr_outloss"), values))

    settings = {
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 1.0,
        "OPTIM.MOMENTUM": 0.0,
        "TRAIN.PRINT_FREQ": config["checkpoint_freq"],
        "STEPS.N": config["n_steps"] - 1,
        "STEPS.FREQ": config["checkpoint_freq"],
        "STEPS.MODEL_SAVE": config["model_save"],
        "SWAD.ENABLED": config["swad"],
        "SWAD.RESET": config["segment_reset"],
        "SWAD.N_CONVERGE": config["n_converge"],
        "SWAD.N_TOLERANCE": config["n_tolerance"],
        "SWAD.TOLERANCE": float(config["tolerance_ratio"]),
    }
    trajectory = case.tensor("trajectory")
    rows = [{"img": trajectory[:1], "label": torch.zeros(1)}]
    return Scripted.from_parts(
        runs.trainer_cfg(Scripted, output, settings),
        ["one", "two"],
        [{"img": point[None], "label": torch.zeros(1)} for point in trajectory],
        val=rows,
        test=rows,
        student=Student(_Point(trajectory[0]), trajectory.shape[1], input_size=1),
    )


def _point(file: Path) -> Tensor:
    """The parameters in a checkpoint; -999 where the run wrote none."""
    if not file.is_file():
        return torch.tensor(-999.0)
    return load_checkpoint(str(file))["state_dict"]["student.network.point"]


def _check_run(case: Case) -> None:
    """The files and the report of a whole run."""
    config = case.config
    leaves_nothing = (
        config["model_save"] > 0 and not config["swad"] and case.arrays["saved_step"] < 0
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer, output = _trainer(case, folder), Path(folder)
        if leaves_nothing:
            with pytest.raises(RuntimeError, match="No checkpoint was saved"):
                trainer.train()
        else:
            trainer.train()
            _check_report(case, trainer, output)
        evaluations = len(runs.metrics_lines(folder, "tr_outloss"))
        case.compare(
            "saved_params", _point(output / "best").expand(case.arrays["saved_params"].shape)
        )
    case.compare("checkpoints_run", np.int64(evaluations))
    case.compare("saved_step", np.int64(trainer.kept.saved_step))
    case.compare("selected_test_in_f64", np.float64(trainer.reported["test_in"]))


def _check_report(case: Case, trainer: StepTrainer, output: Path) -> None:
    """What is reported of SWAD, and what is deployed."""
    deployed = _point(output / "network" / BEST)
    if not case.config["swad"]:
        is_saved = trainer.kept.saved_step >= 0
        kept = "saved_params" if is_saved else "trajectory"
        case.compare(kept, deployed, case.arrays[kept] if is_saved else case.arrays[kept][-1])
        return
    case.compare("swad_params", deployed)
    found = trainer.results["SWAD"]
    case.compare("swad_start", np.int64(found["start"]))
    case.compare("swad_end", np.int64(found["end"]))
    case.compare("swad_n", np.int64(found["segments"]))

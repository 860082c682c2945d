"""Settings and changed defaults that every step-based trainer has."""

from dataclasses import dataclass

from dassl.config import Settings, above, at_least, between, one_of, setting
from dassl.optim.swad import RESET_RULES

IN_SWAD = {"SWAD.ENABLED": True}
FIRST_SAVED = "first step that may become the best checkpoint; 0: none"
RESTART = "when the running mean restarts; every_checkpoint: published, cumulative: VL2V's code"


@dataclass(frozen=True)
class StepSettings(Settings, section="STEPS"):
    """Length, evaluations, CutMix."""

    n: int = setting(0, "steps, rounded to (N // FREQ) * FREQ + 1; 0: the dataset's", at_least(0))
    freq: int = setting(0, "steps between evaluations; 0: the dataset's", at_least(0))
    records: str = setting(
        "needed",
        "evaluations of the target domain: needed, at new maxima of train_out and for SWAD | all",
        one_of("needed", "all"),
    )
    cache_gb: float = setting(
        8.0, "resized evaluation images of a domain are kept up to this size", at_least(0)
    )
    cutmix_beta: float = setting(
        0.0, "0: no CutMix", at_least(0), read_if={"cutmix_prob": above(0)}
    )
    cutmix_prob: float = setting(
        0.0, "share of steps with CutMix", between(0, 1), read_if={"cutmix_beta": above(0)}
    )


@dataclass(frozen=True)
class SavingSteps(StepSettings):
    """The same for one stage."""

    model_save: int = setting(100, FIRST_SAVED, at_least(0))


@dataclass(frozen=True)
class SwadSettings(Settings, section="SWAD"):
    """Which weights are averaged."""

    enabled: bool = setting(False, "average weights over the loss valley")
    n_converge: int = setting(
        3, "patience at the optimum, in evaluations", at_least(1), read_if=IN_SWAD
    )
    n_tolerance: int = setting(
        6, "patience when overfitting, in evaluations", at_least(1), read_if=IN_SWAD
    )
    tolerance: float = setting(
        0.3, "threshold above the mean loss, a fraction", at_least(0), read_if=IN_SWAD
    )


@dataclass(frozen=True)
class RestartingSwad(SwadSettings):
    """The same for one stage."""

    reset: str = setting("every_checkpoint", RESTART, one_of(*RESET_RULES), read_if=IN_SWAD)


@dataclass(frozen=True)
class NetworkSettings(Settings, section="MODEL"):
    """The student in training."""

    dropout: float = setting(0.0, "after the student", between(0, 1))
    freeze_bn: bool = setting(True, "BatchNorm statistics never change")


@dataclass(frozen=True)
class WeightsSettings(Settings, section="MODEL.BACKBONE"):
    """The student's weights."""

    weights: str = setting("", "local file in place of the published download")


ONE_STAGE = (SavingSteps, RestartingSwad, NetworkSettings, WeightsSettings)
SEVERAL_STAGES = (StepSettings, SwadSettings, NetworkSettings, WeightsSettings)
STEP_DEFAULTS = {
    "RUN.PROTOCOL": "lodo",
    "OPTIM.NAME": "adam",
    "OPTIM.LR": 5e-5,
    "OPTIM.WEIGHT_DECAY": 0.0,
    "TEST.SELECT_ON": "source_val",
    "DATALOADER.TEST.BATCH_SIZE": 128,
    "INPUT.RESIZE": "squash",  # evaluation sees all of an image, made square
    "INPUT.TRANSFORMS": (
        "random_resized_crop",
        "random_flip",
        "colorjitter",
        "randomgrayscale",
        "normalize",
    ),
    "INPUT.RRCROP_SCALE": (0.7, 1.0),
    **{f"INPUT.COLORJITTER_{part}": 0.3 for part in "BCSH"},
    "INPUT.RGS_P": 0.1,
}

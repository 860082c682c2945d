"""What settings may be, numbers and choices: one check, made before anything is built."""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from yacs.config import CfgNode

from dassl.utils.text import closest

from .tools import leaves


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; without ``low`` where ``is_open``."""

    low: float
    high: float = math.inf
    is_open: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.is_open and value == self.low)

    def __str__(self) -> str:
        start = f"above {self.low:g}" if self.is_open else f"at least {self.low:g}"
        return start if self.high == math.inf else f"{start} and at most {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        listed = ", ".join(str(value) or "''" for value in self.values)
        return f"one of {listed}" if len(self.values) > 1 else listed


Allowed: TypeAlias = Range | Choice


def at_least(low: float) -> Range:
    """``low`` and everything above it."""
    return Range(low)


def above(low: float) -> Range:
    """Everything above ``low``."""
    return Range(low, is_open=True)


def between(low: float, high: float) -> Range:
    """``low`` to ``high``, both included."""
    return Range(low, high)


def one_of(*values: Any) -> Choice:
    """One of these values."""
    return Choice(values)


LARGEST = 3.4e38  # what the numbers of a network, float32, can hold
LEARNING_RATE = between(0, 1e4)  # beyond, one step makes weights that no later one brings back
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "amp")  # of TRAIN.PRECISION
ENGINE_RANGES: dict[str, Allowed] = {
    "INPUT.SIZE": at_least(0),  # 0: follows the backbone
    "INPUT.CROP_PADDING": at_least(0),
    "INPUT.RRCROP_SCALE": Range(0, 1, is_open=True),
    "INPUT.CUTOUT_N": at_least(0),
    "INPUT.CUTOUT_LEN": at_least(1),
    "INPUT.GN_STD": at_least(0),
    "INPUT.RANDAUGMENT_N": at_least(0),
    "INPUT.RANDAUGMENT_M": between(0, 30),
    "INPUT.COLORJITTER_B": at_least(0),
    "INPUT.COLORJITTER_C": at_least(0),
    "INPUT.COLORJITTER_S": at_least(0),
    "INPUT.COLORJITTER_H": between(0, 0.5),
    "INPUT.RGS_P": between(0, 1),
    "INPUT.GB_P": between(0, 1),
    "INPUT.GB_K": at_least(1),
    "INPUT.PIXEL_STD": above(0),
    "DATASET.NUM_SHOTS": at_least(-1),
    "DATASET.VAL_SHOTS": at_least(-1),
    "DATASET.HOLDOUT": between(0, 1),
    "DATASET.TRIAL_SEED": at_least(-1),
    "DATASET.VAL_PERCENT": between(0, 1),
    "DATALOADER.NUM_WORKERS": at_least(-1),
    "DATALOADER.K_TRANSFORMS": at_least(1),
    "DATALOADER.CACHE_MB": at_least(0),
    "DATALOADER.TRAIN_X.BATCH_SIZE": at_least(1),
    "DATALOADER.TRAIN_X.N_DOMAIN": at_least(0),
    "DATALOADER.TRAIN_X.N_INS": at_least(1),
    "DATALOADER.TRAIN_U.BATCH_SIZE": at_least(1),
    "DATALOADER.TRAIN_U.N_DOMAIN": at_least(0),
    "DATALOADER.TRAIN_U.N_INS": at_least(1),
    "DATALOADER.TEST.BATCH_SIZE": at_least(1),
    "MODEL.HEAD.DROPOUT": between(0, 1),
    "OPTIM.LR": LEARNING_RATE,
    "OPTIM.WEIGHT_DECAY": at_least(0),
    "OPTIM.MOMENTUM": between(0, 1),
    "OPTIM.SGD_DAMPNING": at_least(0),
    "OPTIM.RMSPROP_ALPHA": between(0, 1),
    "OPTIM.ADAM_BETA1": between(0, 1),
    "OPTIM.ADAM_BETA2": between(0, 1),
    "OPTIM.EPS": at_least(0),
    "OPTIM.BASE_LR_MULT": at_least(0),
    "OPTIM.STEPSIZE": at_least(-1),
    "OPTIM.GAMMA": at_least(0),
    "OPTIM.ETA_MIN": LEARNING_RATE,
    "OPTIM.MAX_EPOCH": between(0, 10**6),
    "OPTIM.WARMUP_EPOCH": at_least(-1),
    "OPTIM.WARMUP_CONS_LR": LEARNING_RATE,
    "OPTIM.WARMUP_MIN_LR": LEARNING_RATE,
    "TRAIN.CHECKPOINT_FREQ": at_least(-1),  # as 0, in code written for the original
    "TRAIN.PRINT_FREQ": at_least(1),
    "TRAIN.ACCUMULATE": at_least(1),
    "TRAIN.GRACE_SECONDS": at_least(0.0),
    "TRAIN.PRECISION": one_of(*PRECISIONS, ""),
    "TRAIN.TEXT_CHUNK": at_least(0),
    "TRAIN.NUM_VIEWS": at_least(1),
}


def check_value(key: str, value: Any, allowed: Allowed) -> None:
    """Refuse a value, or a number in a list, that is not allowed.

    Raises:
        ValueError: naming the key, its value and what is expected.
    """
    entries = _numbers(value) if isinstance(allowed, Range) else [value]
    if all(entry in allowed for entry in entries):
        return
    names = allowed.values if isinstance(allowed, Choice) else ()
    hint = closest(value, [name for name in names if isinstance(name, str)])
    expected = f"{key} is {_shown(value)}; expected {allowed}."
    raise ValueError(f"{expected} {hint}" if hint and len(names) > 1 else expected)


def check_ranges(cfg: CfgNode) -> None:
    """Refuse numbers of the engine's keys that no run can use; keys that are not there pass.

    Raises:
        ValueError: naming the key, its value and what is expected.
    """
    for key, value in leaves(cfg):
        if not all(abs(number) <= LARGEST for number in _numbers(value)):  # NaN is not, either
            raise ValueError(
                f"{key} is {_shown(value)}; expected a finite number, at most {LARGEST:.2g}."
            )
        if key in ENGINE_RANGES:
            check_value(key, value, ENGINE_RANGES[key])


def _numbers(value: Any) -> list[float]:
    """The numbers in a setting: its own, or those of a list."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    return [n for n in entries if isinstance(n, (int, float)) and not isinstance(n, bool)]


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(str, value))})"
    return repr(value) if isinstance(value, str) else str(value)

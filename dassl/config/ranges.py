"""What settings may be, numbers and choices: one check, made before anything is built."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from yacs.config import CfgNode

from dassl.utils.text import closest

from .defaults import get_cfg_default
from .tools import leaves


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; without ``low`` where ``is_open``.

    A list of them has ``length`` entries, or none; 0: any length.
    """

    low: float
    high: float = math.inf
    is_open: bool = False
    length: int = 0

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.is_open and value == self.low)

    def __str__(self) -> str:
        start = f"above {self.low:g}" if self.is_open else f"at least {self.low:g}"
        text = start if self.high == math.inf else f"{start} and at most {self.high:g}"
        return f"{self.length} numbers, each {text}" if self.length else text


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


def between(low: float, high: float, *, length: int = 0) -> Range:
    """``low`` to ``high``, both included."""
    return Range(low, high, length=length)


def one_of(*values: Any) -> Choice:
    """One of these values."""
    return Choice(values)


LARGEST = 3.4e38  # what the numbers of a network, float32, can hold
WHOLE = 2**32 - 1  # of whole numbers: seeds are the largest; beyond, libraries overflow
EPOCHS, COUNT = 10**6, 10**6
LEARNING_RATE = between(0, 1e4)  # beyond, one step makes weights that no later one brings back
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "amp")  # of TRAIN.PRECISION
ENGINE_RANGES: dict[str, Allowed] = {
    "VERSION": at_least(0),
    "SEED": at_least(-WHOLE),  # negative: drawn
    "INPUT.SIZE": between(0, 8192, length=2),  # 0: follows the backbone
    "INPUT.CROP_PADDING": between(0, 8192),
    "INPUT.RRCROP_SCALE": Range(0, 1, is_open=True, length=2),
    "INPUT.CUTOUT_N": between(0, 1000),
    "INPUT.CUTOUT_LEN": at_least(1),
    "INPUT.GN_MEAN": between(-1000, 1000),
    "INPUT.GN_STD": between(0, 1000),
    "INPUT.RANDAUGMENT_N": between(0, 100),
    "INPUT.RANDAUGMENT_M": between(0, 30),
    "INPUT.COLORJITTER_B": between(0, 100),
    "INPUT.COLORJITTER_C": between(0, 100),
    "INPUT.COLORJITTER_S": between(0, 100),
    "INPUT.COLORJITTER_H": between(0, 0.5),
    "INPUT.RGS_P": between(0, 1),
    "INPUT.GB_P": between(0, 1),
    "INPUT.GB_K": between(1, 999),
    "INPUT.PIXEL_MEAN": between(-1000, 1000, length=3),
    "INPUT.PIXEL_STD": Range(0, 1000, is_open=True, length=3),
    "DATASET.NUM_LABELED": at_least(-1),
    "DATASET.NUM_SHOTS": at_least(-1),
    "DATASET.VAL_SHOTS": at_least(-1),
    "DATASET.HOLDOUT": between(0, 1),
    "DATASET.TRIAL_SEED": at_least(-1),
    "DATASET.VAL_PERCENT": between(0, 1),
    "DATASET.STL10_FOLD": between(-1, 9),
    "DATASET.CIFAR_C_LEVEL": between(1, 5),
    "DATALOADER.NUM_WORKERS": between(-1, 1024),  # processes
    "DATALOADER.K_TRANSFORMS": between(1, 1000),
    "DATALOADER.CACHE_MB": at_least(0),
    "DATALOADER.TRAIN_X.BATCH_SIZE": between(1, COUNT),
    "DATALOADER.TRAIN_X.N_DOMAIN": between(0, COUNT),
    "DATALOADER.TRAIN_X.N_INS": between(1, COUNT),
    "DATALOADER.TRAIN_U.BATCH_SIZE": between(1, COUNT),
    "DATALOADER.TRAIN_U.N_DOMAIN": between(0, COUNT),
    "DATALOADER.TRAIN_U.N_INS": between(1, COUNT),
    "DATALOADER.TEST.BATCH_SIZE": between(1, COUNT),
    "MODEL.HEAD.HIDDEN_LAYERS": between(1, COUNT),
    "MODEL.HEAD.DROPOUT": between(0, 1),
    "OPTIM.LR": LEARNING_RATE,
    "OPTIM.WEIGHT_DECAY": between(0, 1e4),
    "OPTIM.MOMENTUM": between(0, 1),
    "OPTIM.SGD_DAMPNING": between(0, 1),
    "OPTIM.RMSPROP_ALPHA": between(0, 1),
    "OPTIM.ADAM_BETA1": between(0, 1),
    "OPTIM.ADAM_BETA2": between(0, 1),
    "OPTIM.EPS": at_least(0),
    "OPTIM.BASE_LR_MULT": at_least(0),
    "OPTIM.STEPSIZE": between(-1, EPOCHS),
    "OPTIM.GAMMA": at_least(0),
    "OPTIM.ETA_MIN": LEARNING_RATE,
    "OPTIM.MAX_EPOCH": between(0, EPOCHS),
    "OPTIM.WARMUP_EPOCH": between(-1, EPOCHS),
    "OPTIM.WARMUP_CONS_LR": LEARNING_RATE,
    "OPTIM.WARMUP_MIN_LR": LEARNING_RATE,
    "TRAIN.CHECKPOINT_FREQ": at_least(-1),  # as 0, in code written for the original
    "TRAIN.PRINT_FREQ": at_least(1),
    "TRAIN.ACCUMULATE": between(1, COUNT),
    "TRAIN.GRACE_SECONDS": between(0.0, 7 * 86_400),
    "TRAIN.PRECISION": one_of(*PRECISIONS, ""),
    "TRAIN.TEXT_CHUNK": at_least(0),
    "TRAIN.NUM_VIEWS": between(1, 10_000),
}


def check_value(key: str, value: Any, allowed: Allowed) -> None:
    """Refuse a value, or a number in a list, that is not allowed.

    Raises:
        ValueError: naming the key, its value and what is expected.
    """
    if _fits(value, allowed):
        return
    names = allowed.values if isinstance(allowed, Choice) else ()
    hint = closest(value, [name for name in names if isinstance(name, str)])
    expected = f"{key} is {_shown(value)}; expected {allowed}."
    raise ValueError(f"{expected} {hint}" if hint and len(names) > 1 else expected)


def _fits(value: Any, allowed: Allowed) -> bool:
    if isinstance(allowed, Choice):
        return value in allowed
    entries = value if isinstance(value, (list, tuple)) else [value]
    is_right = len(_numbers(entries)) == len(entries)
    is_right = is_right and len(entries) in (0, allowed.length or len(entries))
    return is_right and all(entry in allowed for entry in entries)


def check_ranges(cfg: CfgNode) -> None:
    """Refuse numbers of the engine's keys that no run can use; keys that are not there pass.

    Raises:
        ValueError: naming the key, its value and what is expected.
    """
    for key, value in leaves(cfg):
        for number in _numbers(value):
            most = WHOLE if isinstance(number, int) else LARGEST
            if not abs(number) <= most:  # NaN is not, either
                raise ValueError(
                    f"{key} is {_shown(value)}; expected a finite number, at most {most:.2g}."
                )
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{key} holds a zero byte, which no text or path has.")
        if key in ENGINE_RANGES:
            check_value(key, value, ENGINE_RANGES[key])
        elif value is None and key in _engine_keys():
            raise ValueError(f"{key} is None; expected a value ('' is the empty text).")


@cache
def _engine_keys() -> frozenset[str]:
    return frozenset(key for key, _ in leaves(get_cfg_default()))


def _numbers(value: Any) -> list[float]:
    """The numbers in a setting: its own, or those of a list."""
    entries = value if isinstance(value, (list, tuple)) else [value]
    return [n for n in entries if isinstance(n, (int, float)) and not isinstance(n, bool)]


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(str, value))})"
    return repr(value) if isinstance(value, str) else str(value)

"""Learning-rate schedules with an optional warm-up.

States hold numbers only, so that checkpoints load with `weights_only=True`; the schedule after the
warm-up is a nested state. States of the original, which hold it as an object, are accepted.
Parity: tests/golden/engine (lr_schedules).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    StepLR,
)
from yacs.config import CfgNode

from dassl.config.conditions import Condition, only_if
from dassl.config.ranges import check_value, one_of

Rates = list[Any]  # numbers; newer versions of torch allow tensors, too
AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]
AVAI_WARMUPS = ["linear", "constant"]
CONDITIONS = [
    only_if(("OPTIM.STEPSIZE", "OPTIM.GAMMA"), "OPTIM.LR_SCHEDULER", "single_step", "multi_step"),
    Condition(
        ("OPTIM.GAMMA",),
        lambda cfg: cfg.OPTIM.LR_SCHEDULER != "single_step" or _last(cfg.OPTIM.STEPSIZE) > 0,
        "the rate never steps, OPTIM.STEPSIZE is {OPTIM.STEPSIZE}",
    ),
    only_if("OPTIM.ETA_MIN", "OPTIM.LR_SCHEDULER", "cosine"),
    Condition(
        (
            "OPTIM.WARMUP_TYPE",
            "OPTIM.WARMUP_CONS_LR",
            "OPTIM.WARMUP_MIN_LR",
            "OPTIM.WARMUP_RECOUNT",
        ),
        lambda cfg: cfg.OPTIM.WARMUP_EPOCH > 0,
        "there is no warm-up, OPTIM.WARMUP_EPOCH is {OPTIM.WARMUP_EPOCH}",
    ),
    only_if("OPTIM.WARMUP_CONS_LR", "OPTIM.WARMUP_TYPE", "constant"),
    only_if("OPTIM.WARMUP_MIN_LR", "OPTIM.WARMUP_TYPE", "linear"),
]
_COUNTERS = ("last_epoch", "_step_count", "_last_lr", "base_lrs")


def _require_counters(state_dict: dict[str, Any]) -> None:
    if "last_epoch" not in state_dict:
        found = ", ".join(state_dict) or "nothing"
        raise ValueError(f"This is not a scheduler state: expected last_epoch, found {found}.")


class _CounterState:
    """Saves and loads the counters of a scheduler; its settings come from the config."""

    def state_dict(self) -> dict[str, Any]:
        """Return last_epoch, step count, last and base learning rates."""
        return {name: vars(self)[name] for name in _COUNTERS if name in vars(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counters of a state; everything else in it is ignored."""
        _require_counters(state_dict)
        vars(self).update({name: state_dict[name] for name in _COUNTERS if name in state_dict})


class SingleStep(_CounterState, StepLR):
    """b * GAMMA^floor(k / STEPSIZE)."""


class MultiStep(_CounterState, MultiStepLR):
    """b * GAMMA^(number of milestones <= k)."""


class Cosine(_CounterState, CosineAnnealingLR):
    """ETA_MIN + (b - ETA_MIN) (1 + cos(pi k / T)) / 2, in torch's recursive form."""


class _BaseWarmupScheduler(LRScheduler, ABC):
    """Sets the learning rate for `warmup_epoch` steps, then lets `successor` step.

    Args:
        optimizer: the live optimiser, the successor's too.
        successor: a fresh schedule on the same optimiser.
        warmup_epoch: steps of warm-up, >= 1.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        last_epoch: int = -1,
        verbose: bool = False,
    ):
        del verbose  # the original's signature; torch has dropped it
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch)

    @abstractmethod
    def warmup_lr(self) -> Rates:
        """Return the rate of each group at step `self.last_epoch` < `warmup_epoch`."""

    def get_lr(self) -> Rates:
        """Return the rate of each group."""
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return self.warmup_lr()

    def step(self, epoch: int | None = None) -> None:
        """Move by one step, of the warm-up or of the successor."""
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step() if epoch is None else self.successor.step(epoch)
            self._last_lr = self.successor.get_last_lr()
        elif epoch is None:
            super().step()
        else:
            super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, and the successor's under `successor`."""
        state = {name: vars(self)[name] for name in _COUNTERS if name in vars(self)}
        return {**state, "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the counters of a state of ours or of the original.

        The successor stays the one on the live optimiser; of an object in its place (the
        original's format) only the counters are read.
        """
        _require_counters(state_dict)
        successor = state_dict.get("successor")
        if successor is None:
            raise ValueError(
                "The saved scheduler had no warm-up, this run has one (OPTIM.WARMUP_EPOCH "
                f"{self.warmup_epoch}). Resume with the config that the run was started with."
            )
        if not isinstance(successor, dict):
            successor = {name: vars(successor)[name] for name in _COUNTERS}
        vars(self).update({name: state_dict[name] for name in _COUNTERS if name in state_dict})
        self.successor.load_state_dict(successor)


class ConstantWarmupScheduler(_BaseWarmupScheduler):
    """`cons_lr` for every group during the warm-up."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        cons_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ):
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch, verbose)

    def warmup_lr(self) -> Rates:
        """Return `cons_lr` per group."""
        return [self.cons_lr] * len(self.base_lrs)


class LinearWarmupScheduler(_BaseWarmupScheduler):
    """`min_lr` at step 0, then b k / W at step k < W."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        min_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ):
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch, verbose)

    def warmup_lr(self) -> Rates:
        """Return the rate per group."""
        if self.last_epoch == 0:
            return [self.min_lr] * len(self.base_lrs)
        return [lr * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer,
    optim_cfg: CfgNode,
    steps_per_epoch: int | None = None,
) -> LRScheduler:
    """Return the schedule of `OPTIM`: LR_SCHEDULER after WARMUP_EPOCH epochs of warm-up.

    Args:
        optimizer: its groups' present rates are the base rates.
        optim_cfg: `cfg.OPTIM`.
        steps_per_epoch: batches per epoch. Needed, and used, with `OPTIM.STEP_PER batch` only:
            MAX_EPOCH, STEPSIZE and WARMUP_EPOCH are then counted in batches.
    """
    scale = _steps_per_unit(optim_cfg, steps_per_epoch)
    warmup = optim_cfg.WARMUP_EPOCH * scale
    # The successor goes first: it records the base rates before the warm-up lowers them.
    scheduler = _create(optimizer, optim_cfg, scale)
    if warmup <= 0:
        return scheduler
    check_value("OPTIM.WARMUP_TYPE", optim_cfg.WARMUP_TYPE, one_of(*AVAI_WARMUPS))
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = warmup
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, warmup, optim_cfg.WARMUP_CONS_LR)
    return LinearWarmupScheduler(optimizer, scheduler, warmup, optim_cfg.WARMUP_MIN_LR)


def _steps_per_unit(cfg: CfgNode, steps_per_epoch: int | None) -> int:
    """Return how many scheduler steps an epoch of the config is."""
    step_per = cfg.get("STEP_PER", "epoch")
    check_value("OPTIM.STEP_PER", step_per, one_of("epoch", "batch"))
    if step_per == "epoch":
        return 1
    if not steps_per_epoch or steps_per_epoch < 1:
        raise ValueError(
            "OPTIM.STEP_PER is batch: call build_lr_scheduler(..., steps_per_epoch=number of "
            f"batches); got {steps_per_epoch}."
        )
    return steps_per_epoch


def _last(steps: Sequence[int] | int) -> int:
    return steps if isinstance(steps, int) else steps[-1]


def _create(optimizer: torch.optim.Optimizer, cfg: CfgNode, scale: int) -> LRScheduler:
    name, steps = cfg.LR_SCHEDULER, cfg.STEPSIZE
    check_value("OPTIM.LR_SCHEDULER", name, one_of(*AVAI_SCHEDS))
    if name == "cosine":
        return Cosine(
            optimizer, T_max=max(1, cfg.MAX_EPOCH * scale), eta_min=cfg.get("ETA_MIN", 0.0)
        )
    if name == "single_step":
        step = _last(steps)
        return SingleStep(
            optimizer,
            step_size=max(1, (step if step > 0 else cfg.MAX_EPOCH) * scale),
            gamma=cfg.GAMMA,
        )
    if not isinstance(steps, (list, tuple)):
        raise ValueError(
            f"OPTIM.STEPSIZE is {steps!r}; multi_step needs a list of epochs, (10, 20) say."
        )
    return MultiStep(optimizer, milestones=[step * scale for step in steps], gamma=cfg.GAMMA)

"""Every parameter group of every trainer follows the declared schedule, step by step.

The expected rates are computed here from OPTIM alone: no schedule of the engine is used.
"""

import itertools
import math
import re

import pytest
import torch
from small_configs import TRAINERS, is_step_based
from torch import nn
from watched_runs import standard, standard_config, watched
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer

UNTRAINED = {"LinearProbe", "TPT", "TipAdapter", "ZeroshotCLIP", "ZeroshotCLIP2"}
TRAINED = [name for name in TRAINERS if name not in UNTRAINED]
# stage -> (names of parameters with a rate of their own, its factor)
FACTORS = {
    "LASP": (r"vision_norms\..*", lambda cfg: cfg.TRAINER.LASP.LN_LR_MULT),
    "MIRO": (r"objective\.b\..*", lambda cfg: cfg.TRAINER.MIRO.LR_MULT),
}


def expected_rate(optim: CfgNode, base: float, k: int, units: int = 1) -> float:
    """The rate at step k of the schedule, counted from 0.

    Args:
        optim: the node OPTIM.
        base: the group's own rate.
        units: steps of the schedule per epoch of the node.
    """
    length, warmup = optim.MAX_EPOCH * units, max(0, optim.WARMUP_EPOCH) * units
    if k < warmup:
        if optim.WARMUP_TYPE == "constant":
            return optim.WARMUP_CONS_LR
        return base * k / warmup if k else optim.WARMUP_MIN_LR
    floor = optim.ETA_MIN if optim.LR_SCHEDULER == "cosine" else 0.0
    share = _shape(optim, k - warmup, length, units)
    if warmup and not optim.WARMUP_RECOUNT:  # parity: the successor begins at ``warmup``, with b
        share = _shape(optim, k, length, units) / _shape(optim, warmup, length, units)
    return floor + (base - floor) * share


def _shape(optim: CfgNode, k: int, length: int, units: int) -> float:
    """The schedule without warm-up at step k, as a share of the group's own rate."""
    if optim.LR_SCHEDULER == "cosine":
        return (1 + math.cos(math.pi * k / length)) / 2
    if optim.LR_SCHEDULER == "multi_step":
        return optim.GAMMA ** sum(k >= milestone * units for milestone in optim.STEPSIZE)
    period = optim.STEPSIZE[-1] * units if optim.STEPSIZE[-1] > 0 else length
    return optim.GAMMA ** (k // period)


def assert_rates(part, optim: CfgNode, stage: str, *, units: int = 1) -> None:
    """Every step of a stage was made with the expected rate of every parameter that moved."""
    pattern, factor = FACTORS.get(stage, (r"(?!)", None))
    own = {key for key in part.rates[0] if re.fullmatch(pattern, key)}
    assert bool(own) == (stage in FACTORS)
    assert part.moved <= part.rates[0].keys()
    for step, rates in enumerate(part.rates):
        k = step if units > 1 else part.places[step]
        for key, rate in rates.items():
            base = optim.LR * factor(part.trainer.cfg) if key in own else optim.LR
            expected = expected_rate(optim, base, k, units)
            assert rate == pytest.approx(expected, rel=1e-9, abs=1e-15), (step, key)


@pytest.mark.parametrize("name", TRAINED)
def test_the_rate_of_every_group_follows_the_schedule_epoch_by_epoch(name, battery):
    run = standard(name, battery)

    for part in run.parts:
        stage, optim = type(part.trainer).__name__, run.cfg.OPTIM.clone()
        optim.defrost()
        if is_step_based(name):
            optim.MAX_EPOCH = 3  # evaluations: after steps 0, 2 and 4
        elif (name, stage) == ("TaskRes", "TaskResBase"):
            node = run.cfg.TRAINER.TaskRes
            optim.LR, optim.MAX_EPOCH = node.BASE_LR, node.BASE_EPOCHS
        assert len({tuple(rates.values()) for rates in part.rates}) == 3
        assert_rates(part, optim, stage)


@pytest.mark.parametrize("name", [name for name in TRAINED if not is_step_based(name)])
def test_the_rate_follows_the_schedule_batch_by_batch_where_it_is_asked_for(name, battery):
    pairs = {
        "OUTPUT_DIR": str(battery / f"batches_{name}"),
        "OPTIM.STEP_PER": "batch",
        "OPTIM.MAX_EPOCH": "2",
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": "1",
        "OPTIM.WARMUP_TYPE": "linear",
        "OPTIM.WARMUP_MIN_LR": "1e-5",
        "TEST.NO_TEST": "True",
        **({"TRAINER.TaskRes.ENHANCED_BASE": "none"} if name == "TaskRes" else {}),
    }
    words = [word for pair in pairs.items() for word in pair]

    run = watched(standard_config(name, battery, *words))

    (part,) = run.parts
    assert len(part.rates) == 4
    assert_rates(part, run.cfg.OPTIM, name, units=2)


SCHEDULES = {
    "cosine": {},
    "single_step": {"STEPSIZE": [2], "GAMMA": 0.5},
    "multi_step": {"STEPSIZE": [2, 5], "GAMMA": 0.3},
}
WARMUPS = [(0, "linear", True), *itertools.product([2], ["linear", "constant"], [True, False])]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("epochs", "kind", "recount"), WARMUPS)
@pytest.mark.parametrize("units", [1, 3])
def test_a_schedule_is_the_one_that_its_settings_name(name, epochs, kind, recount, units):
    cfg = get_cfg_default()
    optim = cfg.OPTIM
    optim.NAME, optim.LR, optim.MAX_EPOCH, optim.LR_SCHEDULER = "sgd", 0.2, 8, name
    optim.WARMUP_EPOCH, optim.WARMUP_TYPE, optim.WARMUP_RECOUNT = epochs, kind, recount
    optim.WARMUP_CONS_LR, optim.WARMUP_MIN_LR = 0.003, 0.001
    optim.STEP_PER = "batch" if units > 1 else "epoch"
    optim.ETA_MIN = 0.0004
    for key, value in SCHEDULES[name].items():
        optim[key] = value
    groups = [{"params": nn.Linear(2, 2).parameters()}, {"params": [nn.Parameter(torch.ones(1))]}]
    groups[1]["lr"] = 0.05

    optimizer = build_optimizer(groups, optim)
    schedule = build_lr_scheduler(optimizer, optim, steps_per_epoch=units)

    for k in range(8 * units):
        rates = [group["lr"] for group in optimizer.param_groups]
        expected = [expected_rate(optim, base, k, units) for base in (0.2, 0.05)]
        assert rates == pytest.approx(expected, rel=1e-9, abs=1e-15), k
        optimizer.step()
        schedule.step()

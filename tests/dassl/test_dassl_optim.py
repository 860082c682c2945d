"""Optimisers and schedules: options, states, resuming."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint


def optim_cfg(**values):
    cfg = get_cfg_default().OPTIM
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    return cfg


def make(layer=None, **values):
    cfg = optim_cfg(**values)
    optimizer = build_optimizer(layer or nn.Linear(2, 2), cfg)
    return optimizer, build_lr_scheduler(optimizer, cfg)


COOP = {"NAME": "sgd", "LR": 0.002, "LR_SCHEDULER": "cosine", "MAX_EPOCH": 6, "WARMUP_EPOCH": 1}
COOP["WARMUP_TYPE"] = "constant"


def rates(optimizer, scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("schedule", ["cosine", "single_step", "multi_step"])
def test_a_resumed_schedule_continues_the_same_learning_rates(tmp_path, schedule, warmup):
    settings = COOP | {"LR_SCHEDULER": schedule, "STEPSIZE": (2, 4), "WARMUP_EPOCH": warmup}
    whole = rates(*make(**settings), 6)

    optimizer, scheduler = make(**settings)
    begun = rates(optimizer, scheduler, 2)
    states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(states, tmp_path / "state")
    loaded = torch.load(tmp_path / "state", weights_only=True)
    optimizer, scheduler = make(**settings)
    optimizer.load_state_dict(loaded["optimizer"])
    scheduler.load_state_dict(loaded["scheduler"])

    assert begun + rates(optimizer, scheduler, 4) == whole


def old_scheduler_state(steps):
    """What the original saves: the successor as an object that holds its optimiser."""
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.002, momentum=0.9)
    successor = CosineAnnealingLR(optimizer, 6)
    for _ in range(steps - 1):
        optimizer.step()
        successor.step()
    state = {"warmup_epoch": 1, "cons_lr": 1e-5, "base_lrs": [0.002], "last_epoch": 1}
    state |= {"_step_count": 2, "_last_lr": successor.get_last_lr(), "successor": successor}
    return {"state_dict": {}, "optimizer": optimizer.state_dict(), "scheduler": state}


def test_a_scheduler_state_of_the_original_loads_safely_and_drives_the_live_optimiser(tmp_path):
    whole = rates(*make(**COOP), 6)
    torch.save(old_scheduler_state(steps=2), tmp_path / "old.pth.tar")

    checkpoint = load_checkpoint(tmp_path / "old.pth.tar")
    optimizer, scheduler = make(**COOP)
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])

    assert isinstance(checkpoint["scheduler"]["successor"], dict)
    assert rates(optimizer, scheduler, 4) == pytest.approx(whole[2:], rel=1e-12)


def test_a_state_with_the_successor_as_an_object_is_accepted():
    whole = rates(*make(**COOP), 6)
    old = old_scheduler_state(steps=2)

    optimizer, scheduler = make(**COOP)
    optimizer.load_state_dict(old["optimizer"])
    scheduler.load_state_dict(old["scheduler"])

    assert rates(optimizer, scheduler, 4) == pytest.approx(whole[2:], rel=1e-12)


def test_a_state_without_warmup_is_refused_by_a_schedule_with_one():
    _, plain = make(**(COOP | {"WARMUP_EPOCH": 0}))
    _, warm = make(**COOP)

    with pytest.raises(ValueError, match="WARMUP_EPOCH"):
        warm.load_state_dict(plain.state_dict())


def test_eta_min_is_where_cosine_ends():
    optimizer, scheduler = make(**(COOP | {"WARMUP_EPOCH": 0, "ETA_MIN": 0.001}))

    seen = rates(optimizer, scheduler, 6)

    expected = [0.001 + 0.001 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert seen == pytest.approx(expected, rel=1e-9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001, rel=1e-9)


def test_a_schedule_per_batch_counts_its_epochs_in_batches():
    cfg = optim_cfg(**(COOP | {"MAX_EPOCH": 2, "STEP_PER": "batch"}))
    optimizer = build_optimizer(nn.Linear(2, 2), cfg)
    scheduler = build_lr_scheduler(optimizer, cfg, steps_per_epoch=3)

    seen = rates(optimizer, scheduler, 6)

    assert seen[:3] == [1e-5] * 3
    assert seen[3:] == pytest.approx(
        [0.002 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(3)], rel=1e-9
    )


def test_a_schedule_per_batch_asks_for_the_number_of_batches():
    cfg = optim_cfg(STEP_PER="batch")

    with pytest.raises(ValueError, match="steps_per_epoch"):
        build_lr_scheduler(build_optimizer(nn.Linear(2, 2), cfg), cfg)


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "rmsprop", "radam"])
def test_eps_reaches_the_adaptive_optimisers(name):
    optimizer, _ = make(NAME=name, EPS=1e-3)

    assert optimizer.param_groups[0]["eps"] == 1e-3


def test_frozen_parameters_are_left_alone():
    layer = nn.Linear(3, 2)
    layer.weight.requires_grad_(False)
    before = layer.weight.clone()
    optimizer, _ = make(layer, NAME="sgd", LR=1.0, WEIGHT_DECAY=0.5)

    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()

    torch.testing.assert_close(layer.weight, before, rtol=0, atol=0)


def test_parameters_and_groups_are_accepted_in_place_of_a_module():
    layer = nn.Linear(3, 2)
    cfg = optim_cfg(NAME="sgd", LR=0.1)

    plain = build_optimizer([layer.weight], cfg)
    grouped = build_optimizer(layer, cfg, param_groups=[{"params": [layer.bias], "lr": 0.7}])

    assert plain.param_groups[0]["params"][0] is layer.weight
    assert grouped.param_groups[0]["lr"] == 0.7


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NAME", "sdg", 'Did you mean "sgd"'),
        ("LR_SCHEDULER", "cosin", 'Did you mean "cosine"'),
        ("WARMUP_TYPE", "const", 'Did you mean "constant"'),
    ],
)
def test_a_misspelt_name_gets_a_did_you_mean(key, value, message):
    with pytest.raises(ValueError, match=message):
        make(**(COOP | {key: value}))


class Mixed(nn.Module):
    """A parameter that the network holds itself, and a child."""

    def __init__(self):
        super().__init__()
        self.ctx, self.head = nn.Parameter(torch.zeros(2)), nn.Linear(2, 2)


@pytest.mark.parametrize(("new", "base"), [("head", ["ctx"]), ("ctx", ["head"])])
def test_staged_rates_reach_parameters_that_a_network_holds_itself(new, base):
    network = Mixed()
    cfg = optim_cfg(NAME="sgd", LR=0.1, STAGED_LR=True, NEW_LAYERS=(new,), BASE_LR_MULT=0.5)

    groups = build_optimizer(network, cfg).param_groups

    names = {id(parameter): name.split(".")[0] for name, parameter in network.named_parameters()}
    found = [sorted({names[id(p)] for p in group["params"]}) for group in groups]
    assert found == [base, [new]]
    assert [group["lr"] for group in groups] == [0.05, 0.1]


def test_an_unknown_new_layer_is_named():
    with pytest.raises(ValueError, match="NEW_LAYERS.*head"):
        make(nn.Sequential(nn.Linear(2, 2)), STAGED_LR=True, NEW_LAYERS=("head",))

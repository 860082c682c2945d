"""Pieces that the checkers of trained methods share."""

from collections.abc import Callable

from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer


def optim_cfg(config: dict) -> CfgNode:
    """The engine's OPTIM node for a case's ``config``."""
    cfg = get_cfg_default().OPTIM
    cfg.NAME = config["optimizer"]
    cfg.LR = float(config["lr"])
    cfg.WEIGHT_DECAY = float(config["weight_decay"])
    cfg.LR_SCHEDULER = config["lr_scheduler"]
    cfg.MAX_EPOCH = config["max_epoch"]
    cfg.WARMUP_EPOCH = config.get("warmup_epoch", -1)
    cfg.WARMUP_TYPE = config.get("warmup_type", cfg.WARMUP_TYPE)
    cfg.WARMUP_CONS_LR = float(config.get("warmup_lr", cfg.WARMUP_CONS_LR))
    cfg.WARMUP_MIN_LR = float(config.get("warmup_min_lr", cfg.WARMUP_MIN_LR))
    cfg.WARMUP_RECOUNT = config.get("warmup_recount", cfg.WARMUP_RECOUNT)
    cfg.STEPSIZE = config.get("stepsize", cfg.STEPSIZE)
    cfg.GAMMA = float(config.get("gamma", cfg.GAMMA))
    cfg.MOMENTUM = float(config.get("momentum", cfg.MOMENTUM))
    cfg.SGD_DAMPNING = config.get("dampening", cfg.SGD_DAMPNING)
    cfg.SGD_NESTEROV = config.get("nesterov", cfg.SGD_NESTEROV)
    cfg.EPS = float(config.get("eps", cfg.EPS))
    if "betas" in config:
        cfg.ADAM_BETA1, cfg.ADAM_BETA2 = (float(beta) for beta in config["betas"])
    return cfg


def train(
    module: nn.Module, config: dict, loss_of: Callable[[int], Tensor]
) -> tuple[list[float], list[float]]:
    """Run the case's steps with the engine's optimiser and schedule.

    Args:
        loss_of: step index -> loss with graph.

    Returns:
        losses before each step, learning rate used at each step.
    """
    cfg = optim_cfg(config)
    optimizer = build_optimizer(module, cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    losses, rates = [], []
    for step in range(config["steps"]):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item())
        optimizer.step()
        if (step + 1) % config.get("batches_per_epoch", 1) == 0:
            scheduler.step()
    return losses, rates

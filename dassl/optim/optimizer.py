"""Optimisers by name."""

import warnings
from collections.abc import Iterable

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.config.conditions import Condition, only_if
from dassl.config.ranges import check_value, one_of
from dassl.utils.text import did_you_mean

from .radam import RAdam

AVAI_OPTIMS = ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"]
_EPS = 1e-8  # for OPTIM nodes made without EPS
_ADAMS = ("adam", "amsgrad", "radam", "adamw")
CONDITIONS = [
    only_if("OPTIM.MOMENTUM", "OPTIM.NAME", "sgd", "rmsprop"),
    only_if(("OPTIM.SGD_DAMPNING", "OPTIM.SGD_NESTEROV"), "OPTIM.NAME", "sgd"),
    Condition(
        ("OPTIM.SGD_DAMPNING",),
        lambda cfg: cfg.OPTIM.MOMENTUM != 0,
        "it dampens the momentum, and OPTIM.MOMENTUM is {OPTIM.MOMENTUM}",
    ),
    only_if("OPTIM.RMSPROP_ALPHA", "OPTIM.NAME", "rmsprop"),
    only_if(("OPTIM.ADAM_BETA1", "OPTIM.ADAM_BETA2"), "OPTIM.NAME", *_ADAMS),
    only_if("OPTIM.EPS", "OPTIM.NAME", "rmsprop", *_ADAMS),
    only_if(("OPTIM.NEW_LAYERS", "OPTIM.BASE_LR_MULT"), "OPTIM.STAGED_LR", True),
]


def build_optimizer(
    model: nn.Module | Iterable,
    optim_cfg: CfgNode,
    param_groups: Iterable | None = None,
) -> torch.optim.Optimizer:
    """Return the optimiser that `OPTIM.NAME` names.

    Args:
        model: a module (all its parameters, frozen ones included: they get no gradient and are
            left alone), or parameters, or parameter groups.
        optim_cfg: `cfg.OPTIM`.
        param_groups: used instead of the model's parameters if given.
    """
    name = optim_cfg.NAME
    check_value("OPTIM.NAME", name, one_of(*AVAI_OPTIMS))
    if optim_cfg.STAGED_LR and param_groups is not None:
        warnings.warn(
            "OPTIM.STAGED_LR is ignored, because the trainer passes its own parameter groups.",
            stacklevel=2,
        )
    if param_groups is None:
        if optim_cfg.STAGED_LR:
            param_groups = _staged_groups(model, optim_cfg)
        else:
            param_groups = model.parameters() if isinstance(model, nn.Module) else model
    return _create(name, param_groups, optim_cfg)


def _create(name: str, params: Iterable, cfg: CfgNode) -> torch.optim.Optimizer:
    common = {"lr": cfg.LR, "weight_decay": cfg.WEIGHT_DECAY}
    betas = (cfg.ADAM_BETA1, cfg.ADAM_BETA2)
    eps = cfg.get("EPS", _EPS)
    if name == "sgd":
        return torch.optim.SGD(
            params,
            momentum=cfg.MOMENTUM,
            dampening=cfg.SGD_DAMPNING,
            nesterov=cfg.SGD_NESTEROV,
            **common,
        )
    if name == "rmsprop":
        return torch.optim.RMSprop(
            params, momentum=cfg.MOMENTUM, alpha=cfg.RMSPROP_ALPHA, eps=eps, **common
        )
    if name == "radam":
        return RAdam(params, betas=betas, eps=eps, **common)
    if name == "adamw":
        return torch.optim.AdamW(params, betas=betas, eps=eps, **common)
    return torch.optim.Adam(params, betas=betas, eps=eps, amsgrad=name == "amsgrad", **common)


def _staged_groups(model: nn.Module | Iterable, cfg: CfgNode) -> list[dict]:
    """Return [base group at LR * BASE_LR_MULT, group of NEW_LAYERS at LR].

    NEW_LAYERS names children, or parameters that the network holds directly. The original forgets
    such parameters; here they learn, too.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"OPTIM.STAGED_LR looks for NEW_LAYERS in a network, not in a {type(model).__name__}."
        )
    network = model.module if isinstance(model, nn.DataParallel) else model
    names = [cfg.NEW_LAYERS] if isinstance(cfg.NEW_LAYERS, str) else list(cfg.NEW_LAYERS)
    parts = [name for name, _ in network.named_parameters(recurse=False)]
    parts += [name for name, _ in network.named_children()]
    for name in names:
        if name not in parts:
            raise ValueError(
                f'OPTIM.NEW_LAYERS names "{name}", which the network does not have. '
                f"{did_you_mean(name, parts)}"
            )
    if not names:
        warnings.warn("OPTIM.STAGED_LR is on, but OPTIM.NEW_LAYERS is empty.", stacklevel=3)
    base: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        (new if name.split(".")[0] in names else base).append(parameter)
    return [{"params": base, "lr": cfg.LR * cfg.BASE_LR_MULT}, {"params": new}]

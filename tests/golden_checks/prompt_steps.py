"""The training part that the cases of all prompt-learning baselines have in common."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from golden_checks.common import Case

LEARNER = "prompt_learner."
NAMES = {"NESTEROV": "SGD_NESTEROV", "DAMPENING": "SGD_DAMPNING"}  # short forms in some cases


def optim_node(config: dict, *, ignore: Sequence[str] = ()) -> CfgNode:
    """The engine's OPTIM node from a case's ``config["OPTIM"]``, whose keys are the engine's.

    Args:
        ignore: keys that belong to the method, not to the engine.
    """
    cfg = get_cfg_default().OPTIM
    for given, value in config["OPTIM"].items():
        key = NAMES.get(given, given)
        if key not in ignore:
            assert key in cfg, f"OPTIM.{given} is no key of the engine"
            cfg[key] = float(value) if isinstance(cfg[key], float) else value
    return cfg


def count_steps(case: Case) -> int:
    """How many training batches x0, x1, ... the case holds."""
    return next(k for k in itertools.count() if f"x{k}" not in case.arrays)


def set_initial(case: Case, parameters: dict[str, nn.Parameter]) -> None:
    """Overwrite every parameter with its init/<name>; the names must agree exactly."""
    names = {key.removeprefix("init/") for key in case.arrays if key.startswith("init/")}
    assert names == set(parameters), names ^ set(parameters)
    for name, parameter in parameters.items():
        value = case.tensor(f"init/{name}").to(parameter.dtype)
        assert parameter.shape == value.shape, name
        parameter.data = value


def learner_parameters(method: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters under their official names ("prompt_learner.ctx")."""
    return {LEARNER + n: p for n, p in method.named_parameters() if p.requires_grad}


def compare_parameters(case: Case, parameters: dict[str, Tensor], prefix: str) -> None:
    """Compare all stored <prefix>/<name> and <prefix>_norm/<name>."""
    for name, value in parameters.items():
        if f"{prefix}/{name}" in case.arrays:
            case.compare(f"{prefix}/{name}", value)
        if f"{prefix}_norm/{name}" in case.arrays:
            case.compare(f"{prefix}_norm/{name}", value.detach().norm())


def run_steps(
    case: Case,
    method: nn.Module,
    parameters: dict[str, nn.Parameter],
    step: Callable[[int, torch.optim.Optimizer], Tensor],
    *,
    param_groups: list[dict] | None = None,
    ignore: Sequence[str] = (),
) -> list[float]:
    """One step per batch, one scheduler step after each; compares "lr" and the first gradient.

    Args:
        step: (k, optimizer) -> loss before the update; it runs backward and optimizer.step().
        ignore: as in ``optim_node``.

    Returns:
        the losses.
    """
    cfg = optim_node(case.config, ignore=ignore)
    optimizer = build_optimizer(method, cfg, param_groups)
    scheduler = build_lr_scheduler(optimizer, cfg)
    losses, rates = [], []
    for k in range(count_steps(case)):
        rates.append([group["lr"] for group in optimizer.param_groups])
        losses.append(step(k, optimizer).item())
        if k == 0:
            compare_parameters(case, {n: p.grad for n, p in parameters.items()}, "grad")
        scheduler.step()
    per_group = "lr" in case.arrays and case.arrays["lr"].ndim == 2
    case.compare("lr", rates if per_group else [row[0] for row in rates])
    return losses


def plain_step(clip, method, case: Case) -> Callable[[int, torch.optim.Optimizer], Tensor]:
    """Minimise ``method.losses(...)["loss"]`` on batch k."""

    def step(k: int, optimizer: torch.optim.Optimizer) -> Tensor:
        raw = method.raw_image_features(clip, case.tensor(f"x{k}"))
        loss = method.losses(clip, raw, case.tensor(f"y{k}").long())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def test_logits(clip, method, case: Case) -> Tensor:
    """Eval-mode logits of x_test; the method's mode is put back."""
    was_training = method.training
    method.eval()
    with torch.no_grad():
        logits = method(clip, case.tensor("x_test"))
    method.train(was_training)
    return logits


test_logits.__test__ = False  # not a test of pytest's

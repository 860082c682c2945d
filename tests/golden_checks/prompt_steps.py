"""What the cases of all prompt-learning baselines have in common: init, steps, two tests."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

from golden_checks.common import Case
from golden_checks.shipped import Named, Shipped, batch, in_epochs

LEARNER = "prompt_learner."  # of parameters in official files


def shipped(case: Case, trainer: str, **options: Any) -> Shipped:
    """The trainer over the batches x<k>, y<k>, one an epoch, at the parameters init/<name>.

    Args:
        options: see ``Shipped``.
    """
    batches = [batch(case.tensor(f"x{k}"), case.tensor(f"y{k}")) for k in steps(case)]
    options = {"official": LEARNER.__add__, **options}
    run = Shipped(case, trainer, in_epochs(batches), test=case.tensor("x_test"), **options)
    set_initial(case, run)
    return run


def steps(case: Case) -> range:
    """The numbers of the training batches x0, x1, ... of the case."""
    return range(next(k for k in itertools.count() if f"x{k}" not in case.arrays))


def set_initial(case: Case, run: Shipped) -> None:
    """Start at the init/<name> of the case, which names every trainable parameter."""
    keys = {key.removeprefix("init/"): key for key in case.arrays if key.startswith("init/")}
    assert set(keys) == set(run.learned), set(keys) ^ set(run.learned)
    run.start_at({name: case.tensor(key) for name, key in keys.items()})


def compare_parameters(case: Case, parameters: Named, prefix: str) -> None:
    """Compare all stored <prefix>/<name> and <prefix>_norm/<name>."""
    for name, value in parameters.items():
        if f"{prefix}/{name}" in case.arrays:
            case.compare(f"{prefix}/{name}", value)
        if f"{prefix}_norm/{name}" in case.arrays:
            case.compare(f"{prefix}_norm/{name}", value.detach().norm())


def check_run(
    case: Case,
    run: Shipped,
    *,
    losses: dict[str, str] | None = None,
    columns: list[int] | slice = slice(None),
) -> None:
    """Test, train to the end, test: everything that the case holds of it.

    Args:
        losses: array of the case -> loss in the trainer's log; by default "loss" is "loss".
        columns: of the stored logits, in the order of the trainer's classes.
    """

    def compare_logits(array: str, logits: Tensor) -> None:
        case.compare(array, logits, case.arrays[array][:, columns])

    compare_logits("logits", run.test())
    run.train(len(steps(case)))
    for array, key in (losses or {"loss": "loss"}).items():
        case.compare(array, [step[key] for step in run.losses])
    per_group = "lr" in case.arrays and case.arrays["lr"].ndim == 2
    case.compare("lr", run.rates if per_group else [row[0] for row in run.rates])
    compare_parameters(case, run.gradients[0], "grad")
    compare_parameters(case, run.learned, "after")
    compare_logits("logits_after", run.logits)

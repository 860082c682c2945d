"""What the cases of methods on frozen image features have in common: some steps on few batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from golden_checks.common import Case
from golden_checks.shipped import Shipped, batch, in_epochs


def batches(
    case: Case, images: Tensor, labels: Tensor, *, restarts: bool = False
) -> Callable[[int], Sequence[dict]]:
    """The batches of every epoch: consecutive ones, over and over, one per step of the case.

    Args:
        restarts: every epoch begins at the first image; what it does not need is left out.
    """
    config = case.config
    size, per_epoch = config.get("batch_size", len(labels)), config.get("batches_per_epoch", 1)
    cut = [batch(*pair) for pair in zip(images.split(size), labels.split(size))]
    cut = cut[:per_epoch] if restarts else cut
    return in_epochs([cut[step % len(cut)] for step in range(config["steps"])], per_epoch)


def check_run(case: Case, run: Shipped, *, first: int | None = None) -> None:
    """Test, train to the end, test: everything that the case holds of it.

    Args:
        first: how many test images the first logits of the case are of; None: all.
    """
    logits = run.test()[:first]
    per_epoch = case.config.get("batches_per_epoch", 1)
    run.train(-(-case.config["steps"] // per_epoch))
    for prefix in ("", "test_"):
        case.compare(f"{prefix}logits_init", logits)
        case.compare(f"{prefix}logits_final", run.logits)
    for name in ("loss_init", "first_loss"):
        case.compare(name, run.losses[0]["loss"])
    case.compare("losses", [step["loss"] for step in run.losses])
    case.compare("lrs", [groups[0] for groups in run.rates])
    for name, value in run.learned.items():
        case.compare(f"grad_{name}", run.gradients[0][name])
        case.compare(f"final_{name}", value)
        case.compare(f"{name}_final", value)
        for step, parameters in enumerate(run.parameters, start=1):
            case.compare(f"{name}_after{step}", parameters[name])

"""What to tell a user whose loss is not a number."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def explain_nonfinite(
    loss: Tensor | float,
    *,
    where: str,
    lr: float | None,
    modules: Mapping[str, nn.Module],
    batch: Any = None,
    is_updated: bool = False,
) -> str:
    """The text of the error about a loss that is infinite or NaN: place and likely cause.

    Args:
        loss: the loss.
        where: the place, as "epoch 3, batch 12 of 40".
        lr: learning rate now, or None.
        modules: registered modules by name.
        batch: the batch that was read last, if it is known.
        is_updated: an update with this loss has been made, so that the weights tell nothing more.
    """
    value = loss.detach().float().mean().item() if isinstance(loss, Tensor) else float(loss)
    cause = _bad_batch(batch) or (_diverged(lr) if is_updated else "")
    cause = cause or explain_weights(modules, lr) or _finite_everywhere(lr)
    return f"Loss is infinite or NaN! {where}: loss = {value}. {cause}"


def nonfinite_tensor(module: nn.Module) -> str:
    """Name of the first parameter with infinite or NaN values, or buffer with NaN; "" if none.

    Infinite buffers are left alone: an attention mask is one.
    """
    if _has_finite_sums(module):
        return ""
    for name, parameter in module.named_parameters():
        if not _is_finite(parameter.detach()):
            return name
    floats = (
        (name, buffer) for name, buffer in module.named_buffers() if buffer.is_floating_point()
    )
    return next((name for name, buffer in floats if _has_nan(buffer)), "")


def _has_finite_sums(module: nn.Module) -> bool:
    """Whether nothing in a module is infinite or NaN; asks its device once."""
    tensors = [*module.parameters(), *module.buffers()]
    sums = [_sum(tensor.detach()) for tensor in tensors if tensor.is_floating_point()]
    return not sums or bool(torch.stack(sums).isfinite().all())


def _is_finite(values: Tensor) -> bool:
    # One infinite or NaN value makes the sum so; a finite sum costs a fraction of looking at each.
    return bool(_sum(values).isfinite()) or bool(values.isfinite().all())


def _has_nan(values: Tensor) -> bool:
    return not bool(_sum(values).isfinite()) and bool(values.isnan().any())


def _sum(values: Tensor) -> Tensor:
    """Summed in float32 at least, as sums of float16 overflow soon; () float64."""
    return values.sum(dtype=torch.promote_types(values.dtype, torch.float32)).double()


def explain_weights(modules: Mapping[str, nn.Module], lr: float | None) -> str:
    """What to say of registered modules that hold infinite or NaN weights; "" if none does."""
    for module_name, module in modules.items():
        if name := nonfinite_tensor(module):
            return (
                f"{module_name}.{name} already holds infinite or NaN values, so an earlier "
                f"update diverged. {_remedy(lr)}"
            )
    return ""


def refuse_nonfinite(module: nn.Module, path: object) -> None:
    """Refuse weights that were just loaded from a file and are not numbers.

    Raises:
        ValueError: naming the file and the tensor.
    """
    if name := nonfinite_tensor(module):
        raise ValueError(
            f"{path} holds infinite or NaN weights ({name}): its training diverged. Train again "
            "with a lower OPTIM.LR or in fp32, or load an earlier epoch (--load-epoch)."
        )


def _bad_batch(batch: Any) -> str:
    if not isinstance(batch, Mapping):
        return ""
    images = batch.get("features", batch.get("img"))
    if not isinstance(images, Tensor) or not images.is_floating_point():
        return ""
    bad = (~images.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    if not bad:
        return ""
    paths = batch.get("impath")
    names = [str(paths[i]) for i in bad[:3]] if paths else [f"row {i}" for i in bad[:3]]
    return (
        f"{len(bad)} inputs of the batch hold infinite or NaN values, the first: "
        f"{', '.join(names)}. Look at these images or at the stored features made from them."
    )


def _diverged(lr: float | None) -> str:
    return f"An earlier update diverged, or the forward pass overflowed. {_remedy(lr)}"


def _remedy(lr: float | None) -> str:
    return (
        f"Lower OPTIM.LR{_now(lr)}, lengthen the warm-up (OPTIM.WARMUP_EPOCH), or train in fp32 "
        "(TRAINER.<name>.PREC fp32)."
    )


def _now(lr: float | None) -> str:
    return "" if lr is None else f" (now {lr:.4g})"


def _finite_everywhere(lr: float | None) -> str:
    return (
        "Inputs and parameters are finite, so the forward pass overflowed. Train in fp32 "
        f"(TRAINER.<name>.PREC fp32), lower OPTIM.LR{_now(lr)}, or check the method's scales "
        "and temperatures."
    )

"""Updates of a trainer's models: on a whole batch, in parts of it, shared among processes.

A batch is computed in TRAIN.ACCUMULATE parts, one after the other, and each process of a run that
``torchrun`` started computes its own stretch of it. Both add up the gradients of parts, weighted by
their numbers of samples: the update is that of the whole batch wherever the loss is a mean over
samples, or does not depend on them. Random draws of a step are the same in all its parts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from yacs.config import CfgNode

from dassl.utils import ranks

from ..state.rng import load_rng_state, rng_state
from .prograd import loss_gradients, project
from .subspace import project_gradients

Both = tuple[list[Tensor | None], list[Tensor | None]]  # gradients of two losses


@dataclass(frozen=True)
class Share:
    """Which part of this process's batch a step is about."""

    weight: float = 1.0  # its share of the samples
    is_first: bool = True
    is_last: bool = True


WHOLE = Share()


class Updates:
    """Part of every trainer: gradients and steps of its registered models.

    Attributes:
        share: the part of the batch that ``forward_backward`` is called for.
        batch_count: samples of this process's last batch.
        runs_alone: why the trainer's runs need all images in one process; "": they do not.
    """

    cfg: CfgNode
    U: Tensor  # basis of model_subspace_backward_and_update, from the trainer that calls it
    _models: dict[str, Any]
    share = WHOLE
    batch_count = 0
    runs_alone = "the engine does not know how it makes its updates"
    _has_backward = False  # since the step began
    _parts: list[Both]  # of prograd_backward_and_update

    # ----------------------------------------------------------------- of other parts
    optimizers: Any
    get_model_names: Any
    detect_anomaly: Any

    def forward_backward(self, batch: Any) -> dict[str, Any]:
        """One update on a batch; returns what to log."""
        raise TypeError(f"{type(self).__name__} does not override forward_backward().")

    # ----------------------------------------------------------------- whole steps
    def one_update(self, *batches: Any) -> dict[str, Any]:
        """``forward_backward`` on a batch: at once, in parts, together with other processes."""
        parts = self.cfg.TRAIN.ACCUMULATE
        if parts == 1 and ranks.size() == 1:
            return self.forward_backward(*batches)  # some trainers take two
        if len(batches) != 1:
            raise ValueError(
                f"TRAIN.ACCUMULATE is {parts}, but {type(self).__name__} takes {len(batches)} "
                "batches in a step, which are not cut into parts. Leave it at 1."
            )
        self.batch_count = len(batches[0]["label"])
        losses = self._in_parts(batches[0], min(parts, self.batch_count))
        if not self._has_backward:
            raise TypeError(
                f"{type(self).__name__}.forward_backward() makes its update without "
                "model_backward(), so that parts of a batch cannot be added up. Leave "
                "TRAIN.ACCUMULATE at 1 and train in one process, or call model_backward()."
            )
        return ranks.mean(losses, self.batch_count)

    def _in_parts(self, batch: Mapping[str, Any], parts: int) -> dict[str, Any]:
        draws = rng_state() if parts > 1 else None
        losses: dict[str, Any] = {}
        self._has_backward, self._parts = False, []
        try:
            for number, piece in enumerate(cut(batch, parts)):
                if number and draws is not None:
                    load_rng_state(draws)
                weight = len(piece["label"]) / self.batch_count
                self.share = Share(weight, number == 0, number == parts - 1)
                for name, value in self.forward_backward(piece).items():
                    losses[name] = losses.get(name, 0.0) + weight * value
        finally:
            self.share = WHOLE
        return losses

    def check_shared(self) -> None:
        """Refuse models whose outputs for an image depend on the rest of its batch, if it is cut.

        Raises:
            ValueError: naming the module and what to do.
        """
        if self.cfg.TRAIN.ACCUMULATE == 1 and ranks.size() == 1:
            return
        for name in self.get_model_names():
            if found := _of_whole_batch(self._models[name]):
                raise ValueError(
                    f"{found} of {name!r} works on a whole batch at once, and batches are cut here "
                    f"(TRAIN.ACCUMULATE {self.cfg.TRAIN.ACCUMULATE}, {ranks.size()} processes): "
                    "the result would not be that of the batch. Freeze or remove it "
                    "(MODEL.FREEZE_BN True, MODEL.DROPOUT 0), or leave TRAIN.ACCUMULATE at 1 and "
                    "start one process."
                )

    def check_ranks_agree(self) -> None:
        """Stop if the processes of this run do not hold the same weights.

        Raises:
            RuntimeError
        """
        if ranks.size() > 1:
            sums = [p.detach().double().sum() for p in self._trained_parameters()]
            ranks.check_equal("The trained weights", float(torch.stack(sums).sum()) if sums else 0)

    # ----------------------------------------------------------------- gradients
    def model_zero_grad(self, names: str | Sequence[str] | None = None) -> None:
        """Clear the gradients of the named optimisers."""
        if self.share.is_first:
            for optim in self.optimizers(names):
                optim.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part's loss; after the last part they are the whole batch's."""
        (loss if self.share.weight == 1.0 else loss * self.share.weight).backward()
        self._has_backward = True
        if self.share.is_last and ranks.size() > 1:
            found = [p.grad for p in self._trained_parameters()]
            average([gradient for gradient in found if gradient is not None], self.batch_count)

    def _trained_parameters(self) -> list[Tensor]:
        groups = [group for optim in self.optimizers() for group in optim.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def model_backward(self, loss: Tensor) -> None:
        """Check the loss and compute gradients."""
        self.detect_anomaly(loss)
        self.backward(loss)

    def model_update(self, names: str | Sequence[str] | None = None) -> None:
        """Step the named optimisers."""
        if self.share.is_last:
            for optim in self.optimizers(names):
                optim.step()

    def model_backward_and_update(
        self, loss: Tensor, names: str | Sequence[str] | None = None
    ) -> None:
        """Zero, backward, step."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def prograd_backward_and_update(
        self,
        loss_a: Tensor,
        loss_b: Tensor,
        lambda_: float = 1,
        names: str | Sequence[str] | None = None,
    ) -> None:
        """Step along the gradient of ``loss_a`` without what works against ``loss_b``.

        Per parameter, u = g_b / ||g_b||; g_a - lambda_ <g_a, u> u where <g_a, u> < 0, else g_a.

        Source: ProGrad, ICCV 2023 (vendored Dassl 0.5 of the KgCoOp lineage).
        """
        self.detect_anomaly(loss_a)
        self.detect_anomaly(loss_b)
        self.model_zero_grad(names)
        models = [self._models[name] for name in self.get_model_names(names)]
        parameters = [p for model in models for p in model.parameters() if p.requires_grad]
        self._has_backward = True
        both = loss_gradients(loss_a, loss_b, parameters)
        if self.share is not WHOLE:
            self._parts.append(_scaled(both, self.share.weight))
            if not self.share.is_last:
                return
            both = _added(self._parts)
            average([g for gradients in both for g in gradients if g is not None], self.batch_count)
        for parameter, gradient in zip(parameters, project(*both, lambda_), strict=True):
            parameter.grad = gradient
        self.model_update(names)

    def model_subspace_backward_and_update(
        self, loss: Tensor, names: str | Sequence[str] | None = None
    ) -> None:
        """Zero, backward, keep of the gradient what lies in the rows of ``self.U``, step.

        Source: Subspace Prompt Learning (vendored Dassl 0.5).
        """
        self.model_zero_grad(names)
        self.model_backward(loss)
        models = [self._models[name] for name in self.get_model_names(names)]
        parameters = [p for model in models for p in model.parameters()]
        project_gradients([p.grad for p in parameters if p.grad is not None], self.U)
        self.model_update(names)


def cut(batch: Mapping[str, Any], parts: int) -> Iterator[dict[str, Any]]:
    """Stretches of a batch, in order; of equal size, or one sample more or less."""
    count = len(batch["label"])
    for number in range(parts):
        rows = slice(count * number // parts, count * (number + 1) // parts)
        yield {name: _stretch(values, rows) for name, values in batch.items()}


def _stretch(values: Any, rows: slice) -> Any:
    """Rows of one entry; where an image has several views, of each of these."""
    if isinstance(values, list) and not isinstance(values[0], str):
        return [views[rows] for views in values]
    return values[rows]


def average(tensors: Sequence[Tensor], count: int) -> None:
    """Replace tensors by their means over all processes, weighted by their sample counts."""
    if ranks.size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors] + [tensors[0].new_ones(1)])
    flat *= count
    ranks.sum_in_place(flat)
    means = (flat[:-1] / flat[-1]).split([tensor.numel() for tensor in tensors])
    for tensor, values in zip(tensors, means, strict=True):
        tensor.copy_(values.view_as(tensor))


def _scaled(both: Both, weight: float) -> Both:
    first, second = ([None if g is None else g * weight for g in gradients] for gradients in both)
    return first, second


def _added(parts: Sequence[Both]) -> Both:
    first, second = (
        [None if found[0] is None else torch.stack(found).sum(dim=0) for found in zip(*of_loss)]
        for of_loss in zip(*parts)
    )
    return first, second


def _of_whole_batch(model: nn.Module | None) -> str:
    """The first module whose output for one image depends on the other images or their number."""
    for name, module in model.named_modules() if model is not None else ():
        kind = type(module).__name__
        is_random = any(word in kind for word in ("Dropout", "DropPath", "StochasticDepth"))
        share = getattr(module, "p", getattr(module, "drop_prob", 0.0)) if is_random else 0.0
        if module.training and (isinstance(module, _BatchNorm) or share):
            return f"{kind} {name}"
    return ""

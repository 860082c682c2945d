"""DMN's dynamic memory as its equations say, nothing cached: the reference of tests and timings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.common.testtime.confident_views import confident_prediction
from trainers.dmn.readout import Offsets


def read_plainly(slots: Tensor, query: Tensor, offsets: Offsets, *, beta: float) -> Tensor:
    """(C, S, D) slots (zeros are empty), (D,) query -> (C,) cosines; section 4 in tensor form."""
    occupied = slots.abs().sum(dim=-1, keepdim=True) > 0
    shifted = query if offsets.query is None else F.normalize(query + offsets.query.mean(0), dim=-1)
    keys = values = None
    if offsets.key is None and offsets.value is None:
        keys = values = F.normalize(slots, dim=-1)
    else:
        keys = F.normalize(slots if offsets.key is None else slots + offsets.key[:, None], dim=-1)
        values = slots if offsets.value is None else slots + offsets.value[:, None]
        values = F.normalize(values, dim=-1)
        keys, values = keys * occupied, values * occupied
    weights = torch.exp(-beta * (1 - keys @ shifted))
    pooled = F.normalize((weights[..., None] * values).sum(dim=1), dim=-1)
    if offsets.output is not None:
        pooled = F.normalize(pooled + offsets.output, dim=-1)
    return pooled @ query


def read_officially(slots: Tensor, fixed: Tensor, query: Tensor, offsets: Offsets, *, beta: float):
    """The cost structure of the official loop: concatenate, then a dozen passes over all slots."""
    memory = torch.cat([slots, fixed], dim=1)
    empty = memory.sum(dim=-1) == 0
    zeros = torch.zeros_like(memory[:, 0])
    bias = {n: getattr(offsets, n) if getattr(offsets, n) is not None else zeros
            for n in ("query", "key", "value", "output")}  # fmt: skip
    keys = memory + bias["key"][:, None]
    keys = keys / keys.norm(dim=-1, keepdim=True)
    keys[empty] = 0
    values = memory + bias["value"][:, None]
    values = values / values.norm(dim=-1, keepdim=True)
    values[empty] = 0
    shifted = query + bias["query"].mean(dim=0)
    shifted = shifted / shifted.norm()
    similarities = (shifted * keys).sum(dim=-1)
    weights = torch.exp(-beta * (1 - similarities))
    pooled = (values * weights[..., None]).sum(dim=1)
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)
    pooled = pooled + bias["output"]
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)
    return (pooled * query).sum(dim=-1)


class PlainMemory:
    """The memory with section 4's write rule in plain tensors; (C, M) entropies and counts."""

    def __init__(self, fixed: Tensor, size: int, *, beta: float, scale: float, offsets: Offsets):
        classes, _, width = fixed.shape
        self.fixed, self.beta, self.scale, self.offsets = fixed, beta, scale, offsets
        self.features = torch.zeros(classes, size, width)
        self.entropies = torch.zeros(classes, size)
        self.counts = torch.zeros(classes, dtype=torch.int64)

    def write(self, label: int, entropy: Tensor, feature: Tensor) -> None:
        if self.counts[label] < self.entropies.shape[1]:
            slot = int(self.counts[label])
            self.counts[label] += 1
        elif not (entropy < self.entropies[label]).any():
            return
        else:
            own = self.entropies[label]
            slot = int((own == own.max()).nonzero().max())
        self.features[label, slot], self.entropies[label, slot] = feature, entropy

    def read(self, query: Tensor, *, official: bool = False) -> Tensor:
        """(D,) -> (C,) logits."""
        if official:
            parts = (self.features, self.fixed, query, self.offsets)
            return self.scale * read_officially(*parts, beta=self.beta)
        slots = torch.cat([self.fixed, self.features], dim=1)
        return self.scale * read_plainly(slots, query, self.offsets, beta=self.beta)


def step_plainly(
    memory: PlainMemory, views: Tensor, text: Tensor, count: int, *, official: bool = False
) -> tuple[Tensor, Tensor]:
    """One image after the encoder: text, selection, write, read -> (C,) p_text, (C,) p_dynamic."""
    found = confident_prediction(views, text, memory.scale, count)
    memory.write(int(found.label), found.entropy, views[0])
    return found.text, memory.read(views[0], official=official).softmax(dim=-1)


def static_logits_plainly(
    slots: Tensor, queries: Tensor, offsets: Offsets, *, beta: float, scale: float
) -> Tensor:
    """Training read-out with (B, C, D) activations: (C, S, D), (B, D) -> (B, C)."""
    shifted = F.normalize(queries + offsets.query.mean(dim=0), dim=-1)
    keys = F.normalize(slots + offsets.key[:, None], dim=-1)
    values = F.normalize(slots + offsets.value[:, None], dim=-1)
    weights = torch.exp(-beta * (1 - torch.einsum("csd,bd->bcs", keys, shifted)))
    pooled = F.normalize(torch.einsum("bcs,csd->bcd", weights, values), dim=-1)
    pooled = F.normalize(pooled + offsets.output, dim=-1)
    return scale * torch.einsum("bcd,bd->bc", pooled, queries)

"""Prompts grouped by length, so that little of what is encoded is padding.

In a causal tower a prompt can be followed by anything: prompts of several lengths may share a pass.
A CPU computes least with a pass per length. A GPU waits for kernels to be launched, and every pass
launches as many: there at most two lengths are made, at least cost.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clip.model import CLIP

PASSES = {"cuda": 2}  # at most, by device; others: one per length


@dataclass
class PromptGroup:
    """Prompts that are encoded in one pass.

    Attributes:
        rows: (n,) their places among all prompts.
        tokens: (n, L) their ids, cut to the longest.
        read: (n,) positions that are read.
    """

    rows: Tensor
    tokens: Tensor
    read: Tensor


class PromptGroups:
    """All groups of N prompts; what needs the values of tokens is found out here, once.

    Args:
        clip: the backbone.
        tokens: (N, L) token ids, on any device; on the CPU nothing waits for a GPU.
        chunk: most prompts of a group; 0: any number.
        equal_lengths: no padding on any device, for methods that let it be seen.
    """

    def __init__(
        self, clip: CLIP, tokens: Tensor, *, chunk: int = 0, equal_lengths: bool = False
    ) -> None:
        device = clip.logit_scale.device
        ids = tokens.cpu()
        read, lengths = clip.read_positions(ids), clip.prompt_lengths(ids).tolist()
        kind = "" if equal_lengths else device.type
        padded = torch.tensor(padded_lengths(lengths, kind))
        self.groups: list[PromptGroup] = []
        for length in padded.unique().tolist():
            members = (padded == length).nonzero().flatten()
            for rows in members.split(chunk or len(members)):
                parts = (rows, ids[rows, :length], read[rows])
                self.groups.append(PromptGroup(*(_on(device, part) for part in parts)))
        order = torch.cat([group.rows.cpu() for group in self.groups]).argsort()
        self.order = _on(device, order)

    def restore_order(self, parts: Sequence[Tensor]) -> Tensor:
        """What was made of every group, (n, ...) each -> (N, ...) in the order of the prompts."""
        return torch.cat(list(parts))[self.order]


def padded_lengths(lengths: Sequence[int], device_type: str) -> list[int]:
    """The length that every prompt is encoded at on a kind of device, at least its own."""
    if PASSES.get(device_type, 0) != 2:
        return list(lengths)
    counts = Counter(lengths)
    longest = max(counts)

    def cost(split: int) -> int:
        """Tokens to encode if prompts up to ``split`` are encoded at that length."""
        return sum(n * (split if length <= split else longest) for length, n in counts.items())

    split = min(counts, key=cost)
    return [split if length <= split else longest for length in lengths]


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    return tensor.to(device, non_blocking=True)

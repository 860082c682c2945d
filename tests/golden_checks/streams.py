"""What the cases of test-time methods share: test images with views, in the order of the case."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.common.testtime.stream import Stream

SEED = 3  # of the order that a run streams its images in


def streamed(views: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
    """A batch of test images that a stream with STREAM_SEED ``SEED`` brings in the case's order.

    Args:
        views: (N, V, ...) pixels or features, view 0 not augmented.
        labels: (N,); nothing depends on them if there are none.
    """
    order = Stream(len(views), SEED).order
    labels = torch.zeros(len(views), dtype=torch.int64) if labels is None else labels
    placed, names = torch.empty_like(views), torch.empty_like(labels)
    placed[order], names[order] = views, labels
    return {"img": placed[:, 0], "views": placed[:, 1:], "label": names}


def in_order(rows: Tensor) -> Tensor:
    """(N, ...) rows of the test images -> the same in the order of the stream."""
    return rows[Stream(len(rows), SEED).order]

"""The stream of a test-time evaluation: test images in a fixed order, and one step on each."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .views import TestViews

FUSED = "fused"


@dataclass
class Step:
    """What a method answers for n images.

    Args:
        scores: classifier -> (n, C) probabilities.
        notes: further columns of the record, (n,) each.
    """

    scores: dict[str, Tensor]
    notes: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def join(cls, steps: Sequence["Step"]) -> "Step":
        """Steps one after the other."""
        return cls(
            {k: torch.cat([s.scores[k] for s in steps]) for k in steps[0].scores},
            {k: torch.cat([s.notes[k] for s in steps]) for k in steps[0].notes},
        )


class Stream:
    """A pass over N test images: order, position, and the answers so far. It knows no label.

    Args:
        count: N.
        seed: of the order.
        keeps_scores: keep every classifier's probabilities, not only predictions.
    """

    def __init__(self, count: int, seed: int, *, keeps_scores: bool = False) -> None:
        self.seed, self.keeps_scores = seed, keeps_scores
        self.order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.position = 0
        self.parts: dict[str, list[Tensor]] = {}  # predictions, scores and notes by column

    def __len__(self) -> int:
        return len(self.order)

    def add(self, step: Step, fused: Tensor) -> None:
        """Take the answers for the next n images."""
        scores = {**step.scores, FUSED: fused}
        for name, rows in scores.items():
            self._append(f"pred/{name}", rows.argmax(dim=-1))
            if self.keeps_scores or name == FUSED:
                self._append(f"score/{name}", rows)
        for name, rows in step.notes.items():
            self._append(f"note/{name}", rows)
        self.position += len(fused)

    def _append(self, name: str, rows: Tensor) -> None:
        self.parts.setdefault(name, []).append(rows.detach().cpu())

    def column(self, name: str) -> Tensor:
        """All rows of a column so far."""
        return torch.cat(self.parts[name])

    def group(self, kind: str) -> dict[str, Tensor]:
        """Columns of a kind: pred, score or note."""
        names = [name for name in self.parts if name.startswith(f"{kind}/")]
        return {name.split("/", 1)[1]: self.column(name) for name in names}

    @property
    def order_digest(self) -> str:
        """SHA-256 of the order."""
        return hashlib.sha256(self.order.numpy().tobytes()).hexdigest()

    def state(self) -> dict:
        """What going on needs."""
        columns = {name: self.column(name) for name in self.parts}
        return {
            "seed": self.seed,
            "order": self.order,
            "position": self.position,
            "keeps_scores": self.keeps_scores,
            "columns": columns,
        }

    @classmethod
    def from_state(cls, state: dict) -> "Stream":
        """The stream that ``state`` was taken from.

        Raises:
            ValueError: its order is not one of all images, or answers are missing.
        """
        stream = cls(0, state["seed"], keeps_scores=state["keeps_scores"])
        stream.order, stream.position = state["order"], state["position"]
        if not torch.equal(stream.order.sort().values, torch.arange(len(stream.order))):
            raise ValueError("its order is not one of all images")
        if {len(rows) for rows in state["columns"].values()} - {stream.position}:
            raise ValueError(f"it does not hold one answer for each of {stream.position} images")
        stream.parts = {name: [rows] for name, rows in state["columns"].items()}
        return stream


def run_stream(
    stream: Stream,
    views: TestViews,
    steps: Callable[[Tensor], Step],
    combine: Callable[[dict[str, Tensor]], Tensor],
    *,
    stop: int,
    device: torch.device | str = "cpu",
    after_chunk: Callable[[], None] = lambda: None,
) -> None:
    """Feed the images from the stream's position to ``stop`` and keep the answers.

    Args:
        stream: is moved on.
        views: of the images that the stream orders.
        steps: (n, V, D) raw features -> answers.
        combine: scores -> (n, C) fused scores.
        stop: position to stop before.
        device: where the method is.
        after_chunk: called when stream and method are in step.

    Raises:
        FloatingPointError: if an answer is not a number.
    """
    for _, raw in views.chunks(stream.order[stream.position : stop]):
        step = steps(raw.to(device))
        fused = combine(step.scores)
        if fused.isnan().any():
            raise FloatingPointError(
                f"The answers for images {stream.position} to {stream.position + len(raw)} of the "
                "stream are not numbers. Check the backbone's weights and the images' features."
            )
        stream.add(step, fused)
        after_chunk()

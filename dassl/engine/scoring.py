"""Scores of a trained model on a split: what an evaluation reads, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dassl.evaluation.predictions import ScoredImages

if TYPE_CHECKING:
    from .trainer import SimpleTrainer


def scores(
    trainer: SimpleTrainer, split: str, batches: Iterable[Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, C) logits and (B,) labels of each batch; ``trainer.scored`` keeps them."""
    trainer.scored[split] = scored = ScoredImages()
    infer = trainer.inference()
    for batch in batches:
        images, labels = trainer.parse_batch_test(batch)
        logits = infer(images)
        scored.add(logits, labels, batch.get("impath", ()))
        yield logits, labels
    scored.gather()


@torch.no_grad()
def score_validation(trainer: SimpleTrainer) -> None:
    """Put the scores of the deployed model on validation images into ``trainer.scored``.

    Those that are there already are of another epoch, or from before settings were searched.
    """
    trainer.scored.pop("val", None)
    if trainer.val_loader is not None:
        trainer.set_model_mode("eval")
        for _ in scores(trainer, "val", trainer.val_loader):
            pass

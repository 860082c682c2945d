"""The registered trainer of a case, built without data, and a record of what its own loop does."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clip.two_towers import IMAGE_MEAN, IMAGE_STD
from dassl.data.given import Batches
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer
from golden_checks.common import Case
from golden_checks.settings import shipped_config

Named = dict[str, Tensor]


def batch(images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
    """A batch of the engine; labels that nothing depends on are zeros."""
    zeros = torch.zeros(len(images), dtype=torch.int64)
    return {"img": images, "label": zeros if labels is None else labels.long()}


def in_epochs(batches: Sequence[dict], per_epoch: int = 1) -> Callable[[int], Sequence[dict]]:
    """Batches in the order of the steps, as the function epoch -> its batches."""
    return lambda epoch: batches[epoch * per_epoch : (epoch + 1) * per_epoch]


def clip_pixels(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> the same, normalised with CLIP's statistics."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (images.float() / 255 - mean) / std


class Watched:
    """A trainer as users run it; nothing of it is replaced, only watched.

    Attributes:
        trainer: over given batches.
        losses: what every step returned to the log.
        rates: learning rate of each optimiser group that a step used.
        gradients: name -> gradient that the optimiser was handed, per step.
        parameters: name -> value after the optimiser's step, per step.
    """

    def __init__(self, trainer: SimpleTrainer) -> None:
        self.trainer = trainer
        self.losses: list[dict[str, float]] = []
        self.rates: list[list[float]] = []
        self.gradients: list[Named] = []
        self.parameters: list[Named] = []
        self._evaluated: list[Tensor] = []
        self._watch()

    def _watch(self) -> None:
        step, process = self.trainer.forward_backward, self.trainer.evaluator.process

        def watched_step(*batches: dict) -> dict[str, float]:
            self.losses.append(step(*batches))
            return self.losses[-1]

        def watched_process(logits: Tensor, labels: Tensor) -> None:
            self._evaluated.append(logits.clone())
            process(logits, labels)

        self.trainer.forward_backward = watched_step
        self.trainer.evaluator.process = watched_process
        if self.trainer.optim is not None:
            self.trainer.optim.register_step_pre_hook(self._before_step)
            self.trainer.optim.register_step_post_hook(self._after_step)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        found = {n: p.grad for n, p in self.learned.items() if p.grad is not None}
        self.gradients.append({name: gradient.clone() for name, gradient in found.items()})

    def _after_step(self, *_: Any) -> None:
        self.parameters.append({n: p.detach().clone() for n, p in self.learned.items()})

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        modules = [module for module in self.trainer._models.values() if module is not None]
        named = (pair for module in modules for pair in module.named_parameters())
        return {name: p for name, p in named if p.requires_grad}


class Shipped(Watched):
    """A CLIP trainer as users run it, over given batches, built with ``shipped_config``."""

    def __init__(
        self,
        case: Case,
        name: str,
        batches: Batches | None,
        *,
        test: Tensor | dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        classnames: Sequence[str] | None = None,
        official: Callable[[str], str] = str,
        parts: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Build the trainer and watch it.

        Args:
            case: its backbone, class names and config.
            name: registered name.
            batches: for training.
            test: the images of the test split, one batch; or that batch.
            labels: of the test split, if ``test`` is no batch.
            classnames: in the place of the case's.
            official: name of a parameter in the method -> in the case.
            parts: further arguments of ``from_parts``.
            more: further config values, see ``shipped_config``.
        """
        parts = parts or {}
        if "clip" not in parts:
            parts = {"clip": case.load_clip(), **parts}
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        trainer = TRAINER_REGISTRY.get(name).from_parts(
            shipped_config(case, name, folder, **more),
            classnames or case.spec["classnames"],
            batches,
            test=[batch(test, labels)] if isinstance(test, Tensor) else test and [test],
            **parts,
        )
        self.clip, self.method = trainer.clip, trainer.method
        self.official = official
        super().__init__(trainer)

    @property
    def learned(self) -> dict[str, nn.Parameter]:
        """The method's trainable parameters, under the names of the case."""
        named = self.method.named_parameters()
        return {self.official(name): p for name, p in named if p.requires_grad}

    def start_at(self, initial: Named) -> None:
        """Overwrite trainable parameters; all names and shapes must fit."""
        for name, value in initial.items():
            parameter = self.learned[name]
            assert parameter.shape == value.shape, f"{name}: {parameter.shape}, {value.shape}"
            parameter.data = value.to(parameter.dtype)

    def train(self, epochs: int) -> None:
        """The trainer's own training, cut after some epochs; the schedule stays the case's."""
        self._evaluated.clear()
        self.trainer.train(max_epoch=epochs)

    def test(self, split: str = "test") -> Tensor:
        """Logits (N, C) of the test (or validation) images by an evaluation now."""
        self._evaluated.clear()
        self.trainer.test(split)
        return self.logits

    @property
    def test_inputs(self) -> Tensor:
        """What an evaluation reads of the test images: pixels, or (N, D) raw features."""
        return torch.cat(
            [part.get("features", part.get("img")) for part in self.trainer.test_loader]
        )

    @property
    def logits(self) -> Tensor:
        """Logits (N, C) of the test images by the last evaluation."""
        return torch.cat(self._evaluated)

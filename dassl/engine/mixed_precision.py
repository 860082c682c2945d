"""Training and evaluating in a precision below float32: autocast, and scaled gradients."""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.config.ranges import PRECISIONS
from dassl.features.encoder import AUTOCAST

from .trainer import TrainerX
from .updating.numerics import check_precision, run_precision

logger = logging.getLogger(__name__)


class MixedPrecision(TrainerX):
    """A trainer that TRAIN.PRECISION reaches: its forward passes run in ``autocast``.

    Attributes:
        precision: one of ``PRECISIONS``; known before data and networks are built.
        scaler: of the gradients; on where the precision is amp.
    """

    precision: str
    scaler: torch.amp.GradScaler
    gpu_precision = "tf32"  # of a run that asks for nothing

    @classmethod
    def precisions(cls) -> tuple[str, ...]:
        """The values of TRAIN.PRECISION that this trainer can run in."""
        return tuple(name for name in PRECISIONS if name != "fp16")  # weights that learn: float32

    @classmethod
    def own_precision(cls, cfg: CfgNode) -> str:
        """What a run on a GPU computes in where TRAIN.PRECISION is empty."""
        return cls.gpu_precision

    def effective_precision(self) -> str:
        """What this run computes in: fp32 on a CPU."""
        check_precision(self.cfg, type(self))
        return run_precision(self.cfg, type(self), self.device)

    def make_scaler(self) -> torch.amp.GradScaler:
        """Scales losses where the precision is amp; else does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "amp")

    def autocast(self) -> AbstractContextManager:
        """Around a training forward: matrix products in fp16 (amp) or bf16."""
        if self.precision in AUTOCAST:
            return torch.autocast(self.device.type, dtype=AUTOCAST[self.precision])
        return nullcontext()

    def evaluation_autocast(self) -> AbstractContextManager:
        """Around an evaluation: as in training where TRAIN.PRECISION asks for it.

        A PREC of amp trains in amp and evaluates in float32, as the official code does.
        """
        return self.autocast() if self.cfg.TRAIN.PRECISION else nullcontext()

    def optimise(self, loss: Tensor) -> None:
        """Zero, backward, step; through the gradient scaler where the precision is amp."""
        if self.precision != "amp":
            self.model_backward_and_update(loss)
            return
        self.detect_anomaly(loss)
        self.model_zero_grad()
        self.backward(self.scaler.scale(loss))
        if self.share.is_last:
            self.scaled_step()

    def scaled_step(self) -> None:
        """Step through the gradient scaler; an overflow skips the step and is logged."""
        made: list[torch.optim.Optimizer] = []  # asking for the scale would wait for the device
        for optim in self.optimizers():
            handle = optim.register_step_post_hook(lambda optim, *_: made.append(optim))
            self.scaler.step(optim)
            handle.remove()
        self.scaler.update()
        if len(made) < len(self.optimizers()):
            self.skipped_steps = getattr(self, "skipped_steps", 0) + 1
            logger.info(
                "Gradient overflow: optimiser step skipped (%d so far).", self.skipped_steps
            )

    def extra_state(self) -> dict:
        return {**super().extra_state(), "scaler": self.scaler.state_dict()}

    def load_extra_state(self, state: dict) -> None:
        super().load_extra_state(state)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])

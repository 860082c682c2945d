"""PromptSRC: self-regulating prompts.

Khattak, Wasim, Naseer, Khan, Yang, Khan: Self-regulating Prompts: Foundational Model Adaptation
without Forgetting, ICCV 2023, arXiv 2307.06948. Parity is tested in tests/golden/promptsrc. License
of the official code: MIT.
"""

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from trainers.common import cross_entropy_losses
from trainers.common.text.independent_prompts import IndependentPrompts

from .settings import PromptSRCSettings


class SelfRegulatedPrompts(IndependentPrompts):
    """loss = CE + lambda_t mean|w - g| + lambda_i mean|f - z| + sum p0 (log p0 - log p) / (B C).

    w (C, D), f (B, D): prompted unit features; g, z: those of the frozen model, g from the mean of
    un-normalised features over templates; p = softmax(s f w^T), p0 = softmax(s z g^T).
    """

    frozen_text: Tensor  # None where no losses are asked for

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        settings: PromptSRCSettings,
        *,
        frozen_text: Tensor | None = None,
        chunk: int = 0,
    ) -> None:
        """Args: frozen_text (C, D) un-normalised mean, None: no losses; chunk: TRAIN.TEXT_CHUNK."""
        super().__init__(clip, classnames, settings, chunk=chunk)
        self.text_weight, self.image_weight = settings.text_loss_weight, settings.image_loss_weight
        if frozen_text is not None:
            frozen_text = F.normalize(frozen_text, dim=-1)
        self.register_buffer("frozen_text", frozen_text, persistent=False)

    @torch.no_grad()
    def frozen_image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) unit rows of the frozen image tower."""
        return F.normalize(clip.encode_image(images.to(clip.dtype)), dim=-1)

    def losses(  # type: ignore[override]  # what the frozen tower gives enters, too
        self, clip: CLIP, raw_image_features: Tensor, labels: Tensor, *, frozen: Tensor
    ) -> dict[str, Tensor]:
        """The total "loss" and its parts "loss_ce", "loss_text", "loss_image", "loss_logits".

        Args:
            frozen: (B, D) unit rows of ``frozen_image_features`` for the same pixels.
        """
        image_features = self.image_features(raw_image_features)
        text_features = self.text_features(clip)
        logits = self.logits(clip, image_features, text_features)
        losses = cross_entropy_losses(logits, labels)
        reference = F.log_softmax(self.logits(clip, frozen, self.frozen_text), dim=-1)
        divergence = F.kl_div(
            F.log_softmax(logits, dim=-1), reference, reduction="sum", log_target=True
        )
        # CE + lambda_t mean|w - g| + lambda_i mean|f - z| + sum p0 (log p0 - log p) / (B C)
        parts = {
            "loss_ce": losses["loss"],
            "loss_text": self.text_weight * F.l1_loss(text_features, self.frozen_text),
            "loss_image": self.image_weight * F.l1_loss(image_features, frozen),
            "loss_logits": divergence / logits.numel(),
        }
        return {"loss": reduce(torch.add, parts.values()), "acc": losses["acc"], **parts}


class GaussianAverage:
    """Average of a module's trainable tensors over epochs e = 1..E, weights N(e; mean, std).

    Source: prompt_baselines 4 (GPA). The official code averages frozen weights, too, which changes
    them by rounding only; frozen weights stay as they are here.
    """

    def __init__(self, mean: float, std: float, epochs: int) -> None:
        """Args: epochs: E, OPTIM.MAX_EPOCH."""
        self.weights = gaussian_weights(mean, std, epochs)
        self.sums: dict[str, Tensor] = {}
        self.total = 0.0  # of the weights added so far

    @torch.no_grad()
    def add(self, module: nn.Module, epoch: int) -> None:
        """Add the module as it is after an epoch, counted from 0."""
        weight = self.weights[epoch].item()
        self.total += weight
        for name, value in module.named_parameters():
            if value.requires_grad:
                self.sums[name] = self.sums.get(name, 0.0) + weight * value.detach().float()

    @torch.no_grad()
    def load_into(self, module: nn.Module) -> None:
        """Write the average into the module."""
        for name, value in module.named_parameters():
            if value.requires_grad:
                value.copy_(self.sums[name] / self.total)

    def state(self) -> dict:
        """What resuming needs."""
        return {"sums": dict(self.sums), "total": self.total}

    def load_state(self, state: dict, device: torch.device) -> None:
        """Take what ``state`` gave."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.total = float(state["total"])


def gaussian_weights(mean: float, std: float, epochs: int) -> Tensor:
    """(E,) float64 densities of N(mean, std^2) at 1..E, normalised to sum 1."""
    steps = torch.arange(1, epochs + 1, dtype=torch.float64)
    return torch.softmax(-((steps - mean) ** 2) / (2 * std**2), dim=0)

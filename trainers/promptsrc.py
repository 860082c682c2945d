"""PromptSRC: self-regulating prompts.

Khattak, Wasim, Naseer, Khan, Yang, Khan: Self-regulating Prompts: Foundational Model Adaptation
without Forgetting, ICCV 2023, arXiv 2307.06948. Parity is tested in tests/golden/promptsrc. License
of the official code: MIT.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import above, at_least, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.step_losses import logged
from trainers.common import ClipTrainer, cross_entropy_losses
from trainers.common.text.encode import template_features
from trainers.common.text.independent_prompts import IndependentPrompts, IndependentSettings
from trainers.common.text.templates import check_templates, template_lists

AVERAGED = {"OPTIM.MAX_EPOCH": above(1)}  # of one epoch there is nothing to average


@dataclass(frozen=True)
class PromptSRCSettings(IndependentSettings, section="TRAINER.PROMPTSRC"):
    """Prompts of both towers, what regulates them, and their average over epochs."""

    n_ctx_vision: int = setting(4, "prompt tokens of the image tower", at_least(1))
    n_ctx_text: int = setting(4, "prompt tokens of the text tower", at_least(1))
    prompt_depth_vision: int = setting(9, "image blocks with prompts, the input counted")
    prompt_depth_text: int = setting(9, "text blocks with prompts, the input counted")
    text_loss_weight: float = setting(25.0, "lambda_t, weight of the text term", at_least(0))
    image_loss_weight: float = setting(10.0, "lambda_i, weight of the image term", at_least(0))
    gpa_mean: float = setting(
        15.0, "epoch with the largest weight in the average, from 1", read_if=AVERAGED
    )
    gpa_std: float = setting(1.0, "width of the average, in epochs", above(0), read_if=AVERAGED)

    def check(self) -> None:
        if self.prompt_depth_vision < 1:
            raise ValueError(
                "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION is 0, but PromptSRC regulates prompts of "
                "both towers. Expected at least 1; text prompts alone are trainer IVLP."
            )


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


@TRAINER_REGISTRY.register()
class PromptSRC(ClipTrainer):
    """Trains prompts of both towers, regulated by the frozen model; averages them over epochs."""

    method: SelfRegulatedPrompts
    declares = (PromptSRCSettings,)
    method_class = SelfRegulatedPrompts
    model_name = "VLPromptLearner"
    needs_vit = True

    @classmethod
    def references(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> dict[str, Tensor]:
        """The mean over templates of what the frozen text tower gives."""
        templates = template_lists()["promptsrc_imagenet_60"]
        if cfg.DATASET.TEMPLATES:
            templates = check_templates(cfg.DATASET.TEMPLATES)
        return {"frozen_text": template_features(clip, classnames, templates).mean(dim=0)}

    def build_model(self) -> None:
        super().build_model()
        mean, std = self.settings.gpa_mean, self.settings.gpa_std
        self.average = GaussianAverage(mean, std, self.max_epoch)

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step; every image goes through the prompted and the frozen tower."""
        images, labels = self.parse_batch_train(batch)[:2]
        with self.autocast():
            raw = self.raw_features(images)
            frozen = self.method.frozen_image_features(self.clip, images)
            losses = self.method.losses(self.clip, raw, labels, frozen=frozen)
        self.optimise(losses["loss"])
        self.step_schedule()
        return logged(losses)

    def after_epoch(self) -> None:
        """Add the epoch to the average; after the last one the average is the model."""
        self.average.add(self.method, self.epoch)
        if self.stop or self.epoch + 1 == self.max_epoch:
            self.average.load_into(self.method)
        super().after_epoch()

    def extra_state(self) -> dict:
        return {**super().extra_state(), "average": self.average.state()}

    def load_extra_state(self, state: dict) -> None:
        super().load_extra_state(state)
        self.average.load_state(state["average"], self.device)

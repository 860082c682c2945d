"""PromptSRC: self-regulating prompts.

Khattak, Wasim, Naseer, Khan, Yang, Khan: Self-regulating Prompts: Foundational Model Adaptation
without Forgetting, ICCV 2023, arXiv 2307.06948. Parity is tested in tests/golden/promptsrc. License
of the official code: MIT.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import Condition, above, at_least
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.shared_conditions import words_are_few
from trainers.common import ClipTrainer, Method, cross_entropy_losses
from trainers.common.text.encode import template_features
from trainers.common.text.independent_prompts import IndependentPrompts
from trainers.common.text.templates import check_templates, template_lists


class SelfRegulatedPrompts(IndependentPrompts):
    """loss = CE + lambda_t mean|w - g| + lambda_i mean|f - z| + sum p0 (log p0 - log p) / (B C).

    w (C, D), f (B, D): prompted unit features; g, z: those of the frozen model, g from the mean of
    un-normalised features over templates; p = softmax(s f w^T), p0 = softmax(s z g^T).
    """

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        *,
        frozen_text: Tensor,
        text_weight: float,
        image_weight: float,
        **prompts,
    ) -> None:
        """Args: frozen_text (C, D) un-normalised mean; prompts: those of ``IndependentPrompts``."""
        super().__init__(clip, classnames, node="PROMPTSRC", **prompts)
        self.text_weight, self.image_weight = text_weight, image_weight
        self.register_buffer("frozen_text", F.normalize(frozen_text, dim=-1), persistent=False)

    @torch.no_grad()
    def frozen_image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) unit rows of the frozen image tower."""
        return F.normalize(clip.encode_image(images.to(clip.dtype)), dim=-1)

    def losses(
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
        return {"loss": sum(parts.values()), "acc": losses["acc"], **parts}


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
    """(E,) float64 densities of N(mean, std^2) at 1..E, normalised to sum 1.

    Raises:
        ValueError: if std is not positive.
    """
    if std <= 0:
        raise ValueError(f"TRAINER.PROMPTSRC.GPA_STD is {std}; expected a positive number.")
    steps = torch.arange(1, epochs + 1, dtype=torch.float64)
    return torch.softmax(-((steps - mean) ** 2) / (2 * std**2), dim=0)


@TRAINER_REGISTRY.register()
class PromptSRC(ClipTrainer):
    """Trains prompts of both towers, regulated by the frozen model; averages them over epochs."""

    node = "PROMPTSRC"
    model_name = "VLPromptLearner"
    needs_vit = True
    ranges = {
        "TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT": at_least(0),
        "TRAINER.PROMPTSRC.IMAGE_LOSS_WEIGHT": at_least(0),
        "TRAINER.PROMPTSRC.GPA_STD": above(0),
    }

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.N_CTX_VISION = 4  # prompt tokens of the image tower
        node.N_CTX_TEXT = 4  # prompt tokens of the text tower
        node.CTX_INIT = "a photo of a"  # initial words; used when N_CTX_TEXT is at most 4
        node.PREC = "amp"  # fp32 | amp | fp16
        node.PROMPT_DEPTH_VISION = 9  # image blocks with prompts, the input counted
        node.PROMPT_DEPTH_TEXT = 9  # text blocks with prompts, the input counted
        node.TEXT_LOSS_WEIGHT = 25.0  # lambda_t
        node.IMAGE_LOSS_WEIGHT = 10.0  # lambda_i
        node.GPA_MEAN = 15.0  # epoch with the largest weight in the average, from 1
        node.GPA_STD = 1.0  # epochs
        return CN({"TRAINER": CN({"PROMPTSRC": node})})

    @classmethod
    def conditions(cls) -> list[Condition]:
        return [
            words_are_few("PROMPTSRC", "N_CTX_TEXT"),
            Condition(
                ("TRAINER.PROMPTSRC.GPA_MEAN", "TRAINER.PROMPTSRC.GPA_STD"),
                lambda cfg: cfg.OPTIM.MAX_EPOCH > 1,
                "there is one epoch (OPTIM.MAX_EPOCH), hence nothing to average",
            ),
            *super().conditions(),
        ]

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.PROMPTSRC
        gaussian_weights(node.GPA_MEAN, node.GPA_STD, 1)
        if node.PROMPT_DEPTH_VISION < 1:
            raise ValueError(
                "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION is 0, but PromptSRC regulates prompts of "
                "both towers. Expected at least 1; text prompts alone are trainer IVLP."
            )

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.PROMPTSRC
        templates = template_lists()["promptsrc_imagenet_60"]
        if cfg.DATASET.TEMPLATES:
            templates = check_templates(cfg.DATASET.TEMPLATES)
        return SelfRegulatedPrompts(
            clip,
            classnames,
            frozen_text=template_features(clip, classnames, templates).mean(dim=0),
            text_weight=node.TEXT_LOSS_WEIGHT,
            image_weight=node.IMAGE_LOSS_WEIGHT,
            n_text=node.N_CTX_TEXT,
            n_vision=node.N_CTX_VISION,
            depth_text=node.PROMPT_DEPTH_TEXT,
            depth_vision=node.PROMPT_DEPTH_VISION,
            ctx_init=node.CTX_INIT,
            chunk=cfg.TRAIN.TEXT_CHUNK,
        )

    def build_model(self) -> None:
        super().build_model()
        node = self.settings
        self.average = GaussianAverage(node.GPA_MEAN, node.GPA_STD, self.max_epoch)

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step; every image goes through the prompted and the frozen tower."""
        images, labels = self.parse_batch_train(batch)[:2]
        with self.autocast():
            raw = self.raw_features(images)
            frozen = self.method.frozen_image_features(self.clip, images)
            losses = self.method.losses(self.clip, raw, labels, frozen=frozen)
        self.optimise(losses["loss"])
        self.step_schedule()
        return {name: value.item() for name, value in losses.items()}

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

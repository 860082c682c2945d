"""ProGrad: prompt-aligned gradient.

Zhu, Niu, Han, Wu, Zhang: Prompt-aligned Gradient for Prompt Tuning, ICCV 2023, arXiv 2205.14865.
Parity is tested in tests/golden/prograd. The official code states no license.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Settings, above, at_least, one_of, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.updating.step_losses import logged
from trainers.common import FeatureTrainer, cross_entropy_losses, scaled_cosines
from trainers.common.settings import precision
from trainers.common.text.encode import zero_shot_classifier
from trainers.common.text.learned import ContextPrompt
from trainers.common.text.templates import single_template

UNREAD = "the official code declares it and does not read it"
SLOT = " {}."  # where a template ends whose words start the context


@dataclass(frozen=True)
class ProGradSettings(Settings, section="TRAINER.COOP"):
    """The context."""

    n_ctx: int = setting(16, "number of context tokens")
    csc: bool = setting(False, "one context per class", read_if={"ctx_init": False})
    ctx_init: bool = setting(True, "end the context with the words of the dataset's template")
    prec: str = precision("fp32", "fp32", "fp16")  # the projection reads plain gradients
    class_token_position: str = setting("end", "where the class name stands", one_of("end"))


@dataclass(frozen=True)
class LossSettings(Settings, section="LOSS"):
    """The distillation term and the projection."""

    gm: bool = setting(False, "in the official config", unread=UNREAD)
    name: str = setting("prograd", "name of the loss", one_of("prograd"))
    alpha: float = setting(0.0, "in the official config", unread=UNREAD)
    t: float = setting(1.0, "temperature of the distillation term", above(0))
    lambda_: float = setting(1.0, "share of the conflicting component that is removed", at_least(0))


class ProGradPrompt(ContextPrompt):
    """g = g_ce - LAMBDA <g_ce, u> u where <g_ce, u> < 0, u = g_kl / |g_kl|, per parameter.

    xe = CE(logits, y); kl = -mean_b sum_c softmax(l0 / T)_c log softmax(l / T)_c * T^2 with the
    zero-shot teacher's logits l0. kl itself is not minimised. ctx is learned as in CoOp.
    """

    teacher: Tensor  # None where no losses are asked for

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        settings: ProGradSettings,
        *,
        teacher: Tensor | None = None,
        temperature: float,
        words: str = "",
        chunk: int = 0,
    ) -> None:
        """Build the prompt "X ... X <words> <name>.".

        Args:
            teacher: (C, D) unit rows of the zero-shot classifier.
            words: fill the last context slots; the first slots then start at zero.

        Raises:
            ValueError: if there are more words than context tokens.
        """
        n_ctx = settings.n_ctx
        filler, ctx = self._word_context(clip, words, n_ctx) if words else ("", None)
        super().__init__(
            clip,
            classnames,
            n_ctx=n_ctx,
            ctx_init=filler,
            learned_words=n_ctx if filler else None,
            class_specific=settings.csc,
            chunk=chunk,
        )
        if ctx is not None:
            self.ctx.data.copy_(ctx)
        self.temperature = temperature
        self.register_buffer("teacher", teacher, persistent=False)

    @staticmethod
    @torch.no_grad()
    def _word_context(clip: CLIP, words: str, n_ctx: int) -> tuple[str, Tensor]:
        # parity: words are counted, so that the token of a comma pushes the last one out of ctx
        count = len(words.split())
        if count > n_ctx:
            raise ValueError(
                f"TRAINER.COOP.N_CTX is {n_ctx}, but the template starts with {count} words "
                f"({words!r}). Set N_CTX to at least {count}, or CTX_INIT False."
            )
        embedded = clip.token_embedding(clip.tokenize(words))[0, clip.text_start :]
        ctx = torch.zeros(n_ctx, clip.transformer.width, device=embedded.device)
        ctx[n_ctx - count :] = embedded[:count]
        return " ".join(["X"] * (n_ctx - count) + [words]), ctx

    def teacher_logits(self, clip: CLIP, raw_image_features: Tensor) -> Tensor:
        """(B, D) raw -> (B, C) zero-shot logits."""
        return scaled_cosines(clip, self.image_features(raw_image_features), self.teacher)

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy "loss" and distillation term "loss_kl" (not added to it)."""
        image_features = self.image_features(raw_image_features)
        logits = self.logits(clip, image_features, self.text_features(clip))
        soft = F.softmax(self.teacher_logits(clip, raw_image_features) / self.temperature, dim=-1)
        log_probs = F.log_softmax(logits / self.temperature, dim=-1)
        # kl = -mean_b sum_c softmax(l0 / T)_c log softmax(l / T)_c * T^2
        distance = -(soft * log_probs).sum(dim=-1).mean() * self.temperature**2
        return {**cross_entropy_losses(logits, labels), "loss_kl": distance}


@TRAINER_REGISTRY.register()
class ProGrad(FeatureTrainer):
    """Trains the context with gradients that do not conflict with the zero-shot teacher's."""

    declares = (ProGradSettings, LossSettings)
    method_class = ProGradPrompt

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        """The temperature, and the template's words that start the context."""
        options = {**super().options(cfg), "temperature": LossSettings.of(cfg).t}
        if not ProGradSettings.of(cfg).ctx_init:
            return options
        first = single_template(cfg, "prograd")[0]
        if not first.endswith(SLOT):
            raise ValueError(
                f"DATASET.TEMPLATES begins with {first!r}; with TRAINER.COOP.CTX_INIT True "
                f"it must end with {SLOT!r}: the words before it start the context."
            )
        return {**options, "words": first.removesuffix(SLOT)}

    @classmethod
    def references(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> dict[str, Tensor]:
        """The zero-shot teacher."""
        templates = single_template(cfg, "prograd")
        return {"teacher": zero_shot_classifier(clip, classnames, templates)}

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step along the projected gradient."""
        features, labels = self.parse_batch_train(batch)[:2]
        losses = self.method.losses(self.clip, self.raw_features(features), labels)
        self.prograd_backward_and_update(
            losses["loss"], losses["loss_kl"], lambda_=LossSettings.of(self.cfg).lambda_
        )
        self.step_schedule()
        return logged(losses)

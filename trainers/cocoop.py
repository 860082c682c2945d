"""CoCoOp: conditional context optimisation.

Zhou, Yang, Loy, Liu: Conditional Prompt Learning for Vision-Language Models, CVPR 2022, arXiv
2203.05557. Parity is tested in tests/golden/cocoop. License of the official code: MIT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.model import CLIP
from dassl.config import Settings, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from trainers.common import FeatureTrainer, Method, cross_entropy_losses
from trainers.common.method import full_precision
from trainers.common.settings import precision
from trainers.common.text.encode import TEXT_BATCH, encode_prompts
from trainers.common.text.learned import LearnedPrompt
from trainers.common.text.meta_net import MetaNet


@dataclass(frozen=True)
class CoCoOpSettings(Settings, section="TRAINER.COCOOP"):
    """The context."""

    n_ctx: int = setting(16, "number of context tokens", read_if={"ctx_init": ""})
    ctx_init: str = setting("", 'initial words; the recipe sets "a photo of a"')
    prec: str = precision("amp")


class CoCoOpPrompt(LearnedPrompt, Method):
    """ctx_b = ctx + meta(f_b); logits_bc = s f_b . normalise(T(P(ctx_b))_c).

    ctx (M, W) and the meta-net D -> D/16 -> W are learned; f_b is the unit image feature. There are
    no image-independent class vectors: text features are made inside ``logits``.
    """

    def __init__(
        self, clip: CLIP, classnames: Sequence[str], settings: CoCoOpSettings, *, chunk: int = 0
    ) -> None:
        """Build prompts for C class names; ``chunk`` is TRAIN.TEXT_CHUNK."""
        n_ctx, words = settings.n_ctx, settings.ctx_init
        super().__init__(clip, classnames, n_ctx=n_ctx, ctx_init=words, chunk=chunk)
        width, embed_dim = clip.transformer.width, clip.visual.output_dim
        self.meta_net = MetaNet(embed_dim, width).to(clip.logit_scale.device, clip.dtype)

    def text_features(self, clip: CLIP) -> None:
        """None: every image has its own class vectors."""
        return

    def conditional_text_features(self, clip: CLIP, image_features: Tensor) -> Tensor:
        """(B, D) unit image features -> (B, C, D) unit rows, one classifier per image."""
        shift = self.meta_net(image_features.to(self.ctx.dtype))  # (B, W)
        at_once = max(1, TEXT_BATCH // len(self.tokenized_prompts))
        return torch.cat([self._encode(clip, part) for part in shift.split(at_once)])

    def _encode(self, clip: CLIP, shift: Tensor) -> Tensor:
        """(n, W) shifts of the context -> (n, C, D) unit rows."""
        chunk = self.chunk if self.training else 0
        raw = encode_prompts(
            clip,
            self.groups(clip, times=len(shift), chunk=chunk),
            # ctx_b = ctx + meta(f_b)
            embeddings=torch.cat([self.embeddings(self.ctx + row) for row in shift]),
            chunk=chunk,
            shared=self.shared_length if len(shift) == 1 else 0,
        )
        return F.normalize(raw, dim=-1).unflatten(0, (len(shift), -1))

    def logits(self, clip: CLIP, image_features: Tensor, text_features: None = None) -> Tensor:
        """(B, D) unit rows -> (B, C); B * C prompts are encoded."""
        texts = self.conditional_text_features(clip, image_features)
        with full_precision(image_features):
            cosines = torch.einsum("bd,bcd->bc", image_features.float(), texts.float())
            return clip.logit_scale.exp() * cosines  # s f_b . t_bc

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy."""
        logits = self.logits(clip, self.image_features(raw_image_features))
        return cross_entropy_losses(logits, labels)


@TRAINER_REGISTRY.register()
class CoCoOp(FeatureTrainer):
    """Trains the context and the meta-net by cross-entropy."""

    declares = (CoCoOpSettings,)
    method_class = CoCoOpPrompt
    own_conditions = (no_templates(),)

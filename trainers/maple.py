"""MaPLe: multi-modal prompt learning.

Khattak, Rasheed, Maaz, Khan, Khan: MaPLe: Multi-modal Prompt Learning, CVPR 2023, arXiv 2210.03117.
Parity is tested in tests/golden/maple. License of the official code: MIT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from clip.model import CLIP
from dassl.config import Settings, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from trainers.common import ClipTrainer
from trainers.common.settings import precision
from trainers.common.text.deep_prompts import FEW_TOKENS, ImagePromptHook, TextPromptHook
from trainers.common.text.independent_prompts import check_depth
from trainers.common.text.learned import ContextPrompt


@dataclass(frozen=True)
class MaPLeSettings(Settings, section="TRAINER.MAPLE"):
    """The prompts of both towers."""

    n_ctx: int = setting(2, "prompt tokens per tower")
    ctx_init: str = setting("a photo of a", "initial words", read_if={"n_ctx": FEW_TOKENS})
    prec: str = precision("amp")
    prompt_depth: int = setting(9, "J, blocks with prompts, the input counted")


class MaPLePrompt(ContextPrompt):
    """Text prompts ctx, P_1..P_{J-1}; image prompts V_0 = proj(ctx), V_i = proj_i(P_i).

    Learned: ctx (n, W_t), P_i (n, W_t), and the J linear maps W_t -> W_v. With n <= 4 the context
    starts at words; words beyond the first n stay fixed embeddings.
    """

    def __init__(
        self, clip: CLIP, classnames: Sequence[str], settings: MaPLeSettings, *, chunk: int = 0
    ) -> None:
        """Build prompts for C class names; ``chunk`` is TRAIN.TEXT_CHUNK."""
        n_ctx, depth = settings.n_ctx, settings.prompt_depth
        for tower in (clip.transformer, clip.visual.transformer):
            check_depth(settings.key("prompt_depth"), depth, tower.layers)
        words = settings.ctx_init if n_ctx in FEW_TOKENS else ""
        super().__init__(
            clip, classnames, n_ctx=n_ctx, ctx_init=words, learned_words=n_ctx, chunk=chunk
        )
        text_width, image_width = clip.transformer.width, clip.visual.transformer.width
        device = clip.logit_scale.device
        self.proj = nn.Linear(text_width, image_width, device=device)
        self.compound_prompts_text = nn.ParameterList(
            nn.Parameter(0.02 * torch.randn(n_ctx, text_width, device=device))
            for _ in range(depth - 1)
        )
        # parity: the official projections start as copies of one random initialisation
        template = nn.Linear(text_width, image_width, device=device)
        self.compound_prompt_projections = nn.ModuleList(
            nn.Linear(text_width, image_width, device=device) for _ in range(depth - 1)
        )
        for layer in self.compound_prompt_projections:
            layer.load_state_dict(template.state_dict())

    def text_hook(self, clip: CLIP) -> TextPromptHook:
        """The prompts P_i at the start of the blocks."""
        return TextPromptHook(list(self.compound_prompts_text), clip.text_start)

    def image_hook(self) -> ImagePromptHook:
        """The image prompts that the text prompts are mapped to."""
        pairs = zip(self.compound_prompt_projections, self.compound_prompts_text)
        deep = [project(prompt) for project, prompt in pairs]  # V_i = proj_i(P_i)
        return ImagePromptHook(self.proj(self.ctx.to(self.proj.weight.dtype)), deep)


@TRAINER_REGISTRY.register()
class MaPLe(ClipTrainer):
    """Trains coupled prompts in both towers by cross-entropy."""

    declares = (MaPLeSettings,)
    method_class = MaPLePrompt
    model_name = "MultiModalPromptLearner"
    own_conditions = (no_templates(),)

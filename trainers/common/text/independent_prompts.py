"""Learned prompts in both towers without coupling: the architecture of IVLP, VPT and PromptSRC."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clip.model import CLIP
from dassl.config import Settings, above, at_least, check_value, setting
from trainers.common.method import Method
from trainers.common.settings import precision

from .deep_prompts import FEW_TOKENS, ImagePromptHook, TextPromptHook
from .learned import ContextPrompt

PROMPT_STD = 0.02  # of random prompts
_SHALLOW = re.compile(r"(image|text)_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow")
_DEEP = {"image": "vision.deep", "text": "text_deep"}


@dataclass(frozen=True)
class VisionSettings(Settings):
    """Prompts of the image tower."""

    n_ctx_vision: int = setting(
        2, "prompt tokens of the image tower", read_if={"prompt_depth_vision": above(0)}
    )
    ctx_init: str = setting("a photo of a", "initial words")
    prec: str = precision("amp")
    prompt_depth_vision: int = setting(12, "image blocks with prompts, the input counted; 0: none")


@dataclass(frozen=True)
class IndependentSettings(VisionSettings):
    """Prompts of both towers."""

    n_ctx_text: int = setting(2, "prompt tokens of the text tower", at_least(1))
    ctx_init: str = setting("a photo of a", "initial words", read_if={"n_ctx_text": FEW_TOKENS})
    prompt_depth_text: int = setting(12, "text blocks with prompts, the input counted")


class VisionPrompts(nn.Module):
    """Image prompts: n tokens after the patches, replaced before blocks 1..depth-1.

    Learned: ``first`` (n, W_v) and ``deep`` (depth - 1 times n, W_v), N(0, 0.02^2).
    """

    def __init__(self, clip: CLIP, settings: VisionSettings) -> None:
        """Draw the prompts; ValueError if the depth does not fit the tower."""
        super().__init__()
        n_tokens, depth = settings.n_ctx_vision, settings.prompt_depth_vision
        check_depth(settings.key("prompt_depth_vision"), depth, clip.visual.transformer.layers)
        check_value(settings.key("n_ctx_vision"), n_tokens, at_least(1))
        width, device = clip.visual.transformer.width, clip.logit_scale.device
        self.first = nn.Parameter(_random(n_tokens, width, device))
        self.deep = nn.ParameterList(_random(n_tokens, width, device) for _ in range(depth - 1))

    def hook(self) -> ImagePromptHook:
        """The hook of the image tower."""
        return ImagePromptHook(self.first, list(self.deep))


class IndependentPrompts(ContextPrompt):
    """Text prompts ctx, Q_1..Q_{J_t - 1} and image prompts V_0..V_{J_v - 1}, all learned.

    Text: the first n rows of the prompt, replaced before blocks 1..J_t-1; the context starts at
    words, words beyond the first n_text stay fixed. Image: see ``VisionPrompts``.
    """

    @staticmethod
    def own_name(official: str) -> str:
        return own_name(official)

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        settings: IndependentSettings,
        *,
        chunk: int = 0,
    ) -> None:
        """Build prompts for C class names; ``chunk`` is TRAIN.TEXT_CHUNK.

        Raises:
            ValueError: if a depth does not fit its tower.
        """
        n_text = settings.n_ctx_text
        depth_text, depth_vision = settings.prompt_depth_text, settings.prompt_depth_vision
        check_depth(settings.key("prompt_depth_text"), depth_text, clip.transformer.layers)
        words = settings.ctx_init if n_text in FEW_TOKENS else ""
        super().__init__(
            clip, classnames, n_ctx=n_text, ctx_init=words, learned_words=n_text, chunk=chunk
        )
        width, device = clip.transformer.width, clip.logit_scale.device
        self.text_deep = nn.ParameterList(
            _random(len(self.ctx), width, device) for _ in range(depth_text - 1)
        )
        self.vision: VisionPrompts | None = None
        if depth_vision:
            self.vision = VisionPrompts(clip, settings)

    def text_hook(self, clip: CLIP) -> TextPromptHook:
        """The text tower's prompts of deeper blocks."""
        return TextPromptHook(list(self.text_deep), clip.text_start)

    def image_hook(self) -> ImagePromptHook | None:
        """The image tower's prompts, if it has any."""
        return None if self.vision is None else self.vision.hook()


class VisualPrompt(Method):
    """VPT: learned image prompts, fixed class vectors.

    text (C, D) unit rows.
    """

    text: Tensor

    @staticmethod
    def own_name(official: str) -> str:
        return own_name(official)

    def __init__(self, clip: CLIP, text: Tensor, settings: VisionSettings) -> None:
        super().__init__()
        self.vision = VisionPrompts(clip, settings)
        self.register_buffer("text", text, persistent=False)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows, constant."""
        return self.text

    def image_hook(self) -> ImagePromptHook:
        """The image tower's prompts."""
        return self.vision.hook()


def own_name(official: str) -> str:
    """Name here of a prompt in an official file, where it lies inside a tower; others stay.

    ``image_encoder.VPT`` -> ``vision.first``, ``...resblocks.i.VPT_shallow`` of the image tower ->
    ``vision.deep.{i-1}``, of the text tower -> ``text_deep.{i-1}``.
    """
    match = _SHALLOW.fullmatch(official)
    if match:
        return f"{_DEEP[match[1]]}.{int(match[2]) - 1}"
    return "vision.first" if official == "image_encoder.VPT" else official


def check_depth(key: str, depth: int, layers: int) -> None:
    """Refuse a prompt depth outside 1..layers.

    Raises:
        ValueError: naming the key.
    """
    if not 1 <= depth <= layers:
        raise ValueError(
            f"{key} is {depth}; expected 1 to {layers}, the depth of this backbone's tower."
        )


def _random(rows: int, width: int, device: torch.device) -> Tensor:
    return PROMPT_STD * torch.randn(rows, width, device=device)

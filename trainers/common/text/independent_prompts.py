"""Learned prompts in both towers without coupling: the architecture of IVLP, VPT and PromptSRC."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clip.model import CLIP
from trainers.common.method import Method

from .deep_prompts import ImagePromptHook, TextPromptHook
from .encode import encode_prompts
from .learned import ContextPrompt

PROMPT_STD = 0.02  # of random prompts
_SHALLOW = re.compile(r"(image|text)_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow")
_DEEP = {"image": "vision.deep", "text": "text_deep"}


class VisionPrompts(nn.Module):
    """Image prompts: n tokens after the patches, replaced before blocks 1..depth-1.

    Learned: ``first`` (n, W_v) and ``deep`` (depth - 1 times n, W_v), N(0, 0.02^2).
    """

    def __init__(self, clip: CLIP, n_tokens: int, depth: int) -> None:
        """Args: depth: blocks with prompts, the input counted."""
        super().__init__()
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
        *,
        n_text: int,
        n_vision: int,
        depth_text: int,
        depth_vision: int,
        ctx_init: str = "",
        node: str = "IVLP",
        chunk: int = 0,
    ) -> None:
        """Build prompts for C class names.

        Args:
            n_text, n_vision: tokens per prompt.
            depth_text, depth_vision: blocks with prompts, the input counted; depth_vision 0 leaves
                the image tower as it is.
            node: config node, for messages.

        Raises:
            ValueError: if a depth does not fit its tower, or a prompt has no token.
        """
        check_depth(f"{node}.PROMPT_DEPTH_TEXT", depth_text, clip.transformer.layers)
        if depth_vision:
            layers = clip.visual.transformer.layers
            check_depth(f"{node}.PROMPT_DEPTH_VISION", depth_vision, layers)
        check_tokens(f"{node}.N_CTX_TEXT", n_text)
        super().__init__(
            clip,
            classnames,
            n_ctx=n_text,
            ctx_init=ctx_init if n_text <= 4 else "",
            learned_words=n_text,
            chunk=chunk,
        )
        width, device = clip.transformer.width, clip.logit_scale.device
        self.text_deep = nn.ParameterList(
            _random(len(self.ctx), width, device) for _ in range(depth_text - 1)
        )
        self.vision = None
        if depth_vision:
            check_tokens(f"{node}.N_CTX_VISION", n_vision)
            self.vision = VisionPrompts(clip, n_vision, depth_vision)

    def raw_text_features(self, clip: CLIP) -> Tensor:
        """(C, D), before L2 normalisation."""
        return encode_prompts(
            clip,
            self.tokenized_prompts,
            embeddings=self.embeddings(),
            hook=TextPromptHook(list(self.text_deep), clip.text_start),
            chunk=self.chunk if self.training else 0,
        )

    def raw_image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D), prompted, before L2 normalisation."""
        hook = None if self.vision is None else self.vision.hook()
        return clip.encode_image(images.to(clip.dtype), hook=hook)


class VisualPrompt(Method):
    """VPT: learned image prompts, fixed class vectors.

    text (C, D) unit rows; Args as ``IndependentPrompts``.
    """

    @staticmethod
    def own_name(official: str) -> str:
        return own_name(official)

    def __init__(self, clip: CLIP, text: Tensor, *, n_vision: int, depth_vision: int) -> None:
        super().__init__()
        check_depth("VPT.PROMPT_DEPTH_VISION", depth_vision, clip.visual.transformer.layers)
        check_tokens("VPT.N_CTX_VISION", n_vision)
        self.vision = VisionPrompts(clip, n_vision, depth_vision)
        self.register_buffer("text", text, persistent=False)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows, constant."""
        return self.text

    def raw_image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D), prompted, before L2 normalisation."""
        return clip.encode_image(images.to(clip.dtype), hook=self.vision.hook())


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
        ValueError: naming TRAINER.<key>.
    """
    if not 1 <= depth <= layers:
        raise ValueError(
            f"TRAINER.{key} is {depth}; expected 1 to {layers}, the depth of this backbone's tower."
        )


def check_tokens(key: str, count: int) -> None:
    """Refuse a prompt without tokens.

    Raises:
        ValueError: naming TRAINER.<key>.
    """
    if count < 1:
        raise ValueError(f"TRAINER.{key} is {count}; expected at least 1.")


def _random(rows: int, width: int, device: torch.device) -> Tensor:
    return PROMPT_STD * torch.randn(rows, width, device=device)

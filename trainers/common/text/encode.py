"""Text encoding for every method: plain sentences and given prompt embeddings."""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clip.model import CLIP, TowerHook

from .class_words import words_of
from .groups import PromptGroup, PromptGroups
from .templates import fill

logger = logging.getLogger(__name__)
# Prompts per call where no gradient is kept; bounds memory with 80 templates x 1000 classes.
TEXT_BATCH = 512
CLIP_CONTEXT = 77  # positions of the text tower that published sentences are written for


def encode_prompts(
    clip: CLIP,
    tokens: Tensor | PromptGroups,
    *,
    embeddings: Tensor | None = None,
    hook: TowerHook | None = None,
    chunk: int = 0,
    shared: int = 0,
) -> Tensor:
    """Encode prompts in one batch per length (of a tower that is not causal: in one batch).

    Args:
        clip: the backbone.
        tokens: (N, L) token ids, or the groups made of them; with ``embeddings`` they only tell
            the end-of-text positions.
        embeddings: (N, L, W) learned token embeddings, positions not added.
        hook: a text-tower hook. Its per-prompt tensors must not depend on the order of prompts.
        chunk: prompts per block of work that is recomputed in the backward pass; bounds memory
            (TRAIN.TEXT_CHUNK), 0 keeps all activations. Given groups are made with it.
        shared: leading tokens that are the same in all prompts, computed once per call of a
            causal tower; a hook must treat tokens by content then, not by position.

    Returns:
        (N, D) raw features, in the order of ``tokens``.
    """
    groups = PromptGroups(clip, tokens, chunk=chunk) if isinstance(tokens, Tensor) else tokens
    shared = shared if clip.is_causal else 0
    parts = []
    for group in groups.groups:
        own = None if embeddings is None else embeddings[group.rows, : group.tokens.shape[1]]
        parts.append(_encode(clip, group, own, hook, recompute=chunk > 0, shared=shared))
    return groups.restore_order(parts)


def _encode(
    clip: CLIP,
    group: PromptGroup,
    embeddings: Tensor | None,
    hook: TowerHook | None,
    *,
    recompute: bool,
    shared: int,
) -> Tensor:
    def run(values: Tensor | None) -> Tensor:
        return clip.encode_text(
            group.tokens, embeddings=values, hook=hook, shared=shared, read=group.read
        )

    if recompute and torch.is_grad_enabled():
        return checkpoint(run, embeddings, use_reentrant=False)
    return run(embeddings)


def common_prefix_length(clip: CLIP, tokens: Tensor) -> int:
    """How many leading tokens all prompts of (N, L) share, end-of-text tokens not counted."""
    same = (tokens == tokens[:1]).all(dim=0)
    length = int(same.int().cumprod(dim=0).sum())
    return min(length, int(clip.end_positions(tokens).min()))


@torch.no_grad()
def encode_sentences(clip: CLIP, sentences: Sequence[str]) -> Tensor:
    """N sentences -> (N, D) raw features, no gradient; equal sentences, equal bits."""
    places = {sentence: place for place, sentence in enumerate(dict.fromkeys(sentences))}
    tokens = _fitting_tokens(clip, list(places))
    # Sorted by length, so that a block of TEXT_BATCH prompts holds few different lengths.
    order = clip.prompt_lengths(tokens).argsort(stable=True)
    parts = [encode_prompts(clip, tokens[rows]) for rows in order.split(TEXT_BATCH)]
    rows = order.argsort()[torch.tensor([places[sentence] for sentence in sentences])]
    return torch.cat(parts)[rows.to(parts[0].device)]


def _fitting_tokens(clip: CLIP, sentences: list[str]) -> Tensor:
    """(N, L) token ids, on the CPU, so that their lengths are known without asking a GPU.

    A backbone with fewer positions than CLIP cuts what is too long, with a warning. Sentences are
    written for CLIP's length, and open_clip cuts them for such backbones, too.
    """
    try:
        return clip.tokenizer(sentences, clip.context_length)
    except RuntimeError:
        if clip.context_length >= CLIP_CONTEXT:
            raise
    logger.warning(
        "Sentences longer than the %d positions of %s are cut.",
        clip.context_length,
        clip.backbone_name,
    )
    return clip.tokenizer(sentences, clip.context_length, truncate=True)


@torch.no_grad()
def template_features(
    clip: CLIP,
    classnames: Sequence[str],
    templates: Sequence[str],
    *,
    replace_underscores: bool = True,
) -> Tensor:
    """Raw features of every class in every template: (K, C, D) for K templates."""
    sentences = [
        fill(template, name, replace_underscores=replace_underscores)
        for template in templates
        for name in classnames
    ]
    return encode_sentences(clip, sentences).unflatten(0, (len(templates), len(classnames)))


def zero_shot_classifier(clip: CLIP, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Normalise per template, average, normalise again: (C, D) unit rows.

    Source: CLIP's prompt ensembling; coop_zeroshot section 3, amu_tuning section 1.
    """
    features = template_features(clip, classnames, templates)
    return F.normalize(F.normalize(features, dim=-1).mean(dim=0), dim=-1)


def context_words(ctx_init: str) -> str:
    """The words of a CTX_INIT: ``_`` is a blank, several blanks are one."""
    return " ".join(words_of(ctx_init).split())


@torch.no_grad()
def pre_projection_features(
    clip: CLIP,
    classnames: Sequence[str],
    templates: Sequence[str],
    *,
    replace_underscores: bool = True,
) -> Tensor:
    """(C, W): mean over templates of ln_final's output at the token that is read."""
    total = torch.zeros(())
    for template in templates:
        names = [fill(template, c, replace_underscores=replace_underscores) for c in classnames]
        tokens = clip.tokenize(names)
        positions = clip.read_positions(tokens)
        states = clip.encode_text(tokens, pool=False)  # (L, C, W)
        rows = states[positions, torch.arange(len(names), device=positions.device)]
        total = total + clip.ln_final(rows)
    return total / len(templates)

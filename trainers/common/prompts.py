"""Text encoding for every method: plain sentences and learned prompts.

All of it is exact and cheap: prompts are encoded in one batch per length, so no position after an
end-of-text token is ever computed (clip_backbone: causal mask, read-out at the first EOT).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip import tokenize
from clip.model import CLIP, TowerHook

from .method import Method
from .templates import fill

# Prompts per call where no gradient is kept; bounds memory with 80 templates x 1000 classes.
TEXT_BATCH = 512


def eot_positions(tokens: Tensor) -> Tensor:
    """(N, L) token ids -> (N,) position of the first end-of-text token."""
    return tokens.argmax(dim=-1)


def encode_prompts(
    clip: CLIP,
    tokens: Tensor,
    *,
    embeddings: Tensor | None = None,
    hook: TowerHook | None = None,
    chunk: int = 0,
    shared: int = 0,
) -> Tensor:
    """Encode prompts in one batch per length.

    Args:
        clip: the backbone.
        tokens: (N, L) token ids; with ``embeddings`` they only tell the end-of-text positions.
        embeddings: (N, L, W) learned token embeddings, positions not added.
        hook: a text-tower hook. Its per-prompt tensors must not depend on the order of prompts.
        chunk: prompts per block of work that is recomputed in the backward pass; bounds memory
            (TRAIN.TEXT_CHUNK), 0 keeps all activations.
        shared: leading tokens that are the same in all prompts, computed once per call of the
            tower; a hook must treat tokens by content then, not by position.

    Returns:
        (N, D) raw features, in the order of ``tokens``.
    """
    positions = eot_positions(tokens)
    order, parts = [], []
    for position in positions.unique().tolist():
        members = (positions == position).nonzero().flatten()
        for rows in members.split(chunk or len(members)):
            ids = tokens[rows, : position + 1]
            part = None if embeddings is None else embeddings[rows, : position + 1]
            order.append(rows)
            parts.append(_encode(clip, ids, part, hook, recompute=chunk > 0, shared=shared))
    inverse = torch.cat(order).argsort()
    return torch.cat(parts)[inverse]


def _encode(
    clip: CLIP,
    ids: Tensor,
    embeddings: Tensor | None,
    hook: TowerHook | None,
    *,
    recompute: bool,
    shared: int,
) -> Tensor:
    def run(values: Tensor | None) -> Tensor:
        return clip.encode_text(ids, embeddings=values, hook=hook, shared=shared)

    if recompute and torch.is_grad_enabled():
        return checkpoint(run, embeddings, use_reentrant=False)
    return run(embeddings)


def common_prefix_length(tokens: Tensor) -> int:
    """How many leading tokens all prompts of (N, L) share, end-of-text tokens not counted."""
    same = (tokens == tokens[:1]).all(dim=0)
    length = int(same.int().cumprod(dim=0).sum())
    return min(length, int(eot_positions(tokens).min()))


class FrozenPrompts:
    """Constant prompts whose blocks below ``start`` are frozen: those are run once, here.

    One group per prompt length; leading tokens that all prompts share are computed once per call.
    Valid as long as the backbone does not change, which no method of this package does below
    ``start``.
    """

    def __init__(self, clip: CLIP, tokens: Tensor, *, start: int = 0, shared: int = 0) -> None:
        """Args: tokens (N, L); start: first block that a hook changes; shared: leading tokens."""
        self.start, self.shared = start, shared
        self.rows: list[Tensor] = []
        self.groups: list[tuple[Tensor, Tensor | None]] = []
        positions = eot_positions(tokens)
        for position in positions.unique().tolist():
            rows = (positions == position).nonzero().flatten()
            ids = tokens[rows, : position + 1]
            states = None
            if start:
                with torch.no_grad():
                    states = clip.encode_text(ids, stop=start, shared=shared)  # (L, N, W)
            self.rows.append(rows)
            self.groups.append((ids, states))

    def encode(self, clip: CLIP, *, hook: TowerHook | None = None, chunk: int = 0) -> Tensor:
        """(N, D) raw features in the order of the tokens; ``chunk`` as in ``encode_prompts``."""
        parts = []
        for ids, states in self.groups:
            for rows in torch.arange(len(ids), device=ids.device).split(chunk or len(ids)):
                part = None if states is None else states[:, rows]
                parts.append(self._encode(clip, ids[rows], part, hook, recompute=chunk > 0))
        return torch.cat(parts)[torch.cat(self.rows).argsort()]

    def _encode(
        self,
        clip: CLIP,
        ids: Tensor,
        states: Tensor | None,
        hook: TowerHook | None,
        *,
        recompute: bool,
    ) -> Tensor:
        def run() -> Tensor:
            return clip.encode_text(
                ids, hook=hook, start=self.start, states=states, shared=self.shared
            )

        if recompute and torch.is_grad_enabled():
            return checkpoint(run, use_reentrant=False)
        return run()


@torch.no_grad()
def encode_sentences(clip: CLIP, sentences: Sequence[str]) -> Tensor:
    """N sentences -> (N, D) raw features, no gradient; equal sentences, equal bits."""
    places = {sentence: place for place, sentence in enumerate(dict.fromkeys(sentences))}
    tokens = tokenize(list(places)).to(clip.logit_scale.device)
    # Sorted by length, so that a block of TEXT_BATCH prompts holds few different lengths.
    order = eot_positions(tokens).argsort(stable=True)
    parts = [encode_prompts(clip, tokens[rows]) for rows in order.split(TEXT_BATCH)]
    return torch.cat(parts)[order.argsort()][[places[sentence] for sentence in sentences]]


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


class LearnedPrompt(nn.Module):
    """Token embeddings of "<context> <name>." with a learned context.

    Frozen parts are buffers: ``token_prefix`` (C, 1, W) = SOS, ``token_suffix`` (C, L-1-M, W) =
    what follows the context up to the longest end-of-text token, ``tokenized_prompts`` (C, 77).
    The trained context lives in ``ctx``: (M, W), or (C, M, W) when class-specific.
    """

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        *,
        n_ctx: int,
        ctx_init: str = "",
        class_specific: bool = False,
        position: str = "end",
        learned_words: int | None = None,
    ) -> None:
        """Build prompts for C class names.

        Args:
            n_ctx: number of context tokens M; ignored when ``ctx_init`` is given.
            ctx_init: initial words, one token each; ``_`` counts as a blank.
            learned_words: only so many of the words are learned, the others stay fixed.
            class_specific: one context per class; ignored when ``ctx_init`` is given.
            position: of the class name: "end", "middle" or "front".

        Raises:
            ValueError: for an unknown position, a prompt too long for the text tower, no context
                token, or fewer words than are to be learned.
        """
        super().__init__()
        if position not in _LAYOUTS:
            raise ValueError(
                f"Class token position is {position!r}; expected one of {', '.join(_LAYOUTS)} "
                "(TRAINER.<NAME>.CLASS_TOKEN_POSITION)."
            )
        names = [name.replace("_", " ") for name in classnames]
        words = ctx_init.replace("_", " ").strip()
        length = len(words.split(" ")) if words else n_ctx
        _check_length(length, words, learned_words)
        prefix_text = words or " ".join(["X"] * length)
        if words and learned_words is not None:
            length = learned_words
        tokens = _tokenize_prompts([f"{prefix_text} {name}." for name in names], length)
        tokens = tokens.to(clip.logit_scale.device)
        longest = int(eot_positions(tokens).max()) + 1
        with torch.no_grad():
            embeddings = clip.token_embedding(tokens[:, :longest]).to(clip.dtype)
        self.position = position
        self.name_lengths = [token_count(name) for name in names]
        self.ctx = nn.Parameter(self._initial(clip, words, length, class_specific, len(names)))
        self.register_buffer("token_prefix", embeddings[:, :1])
        self.register_buffer("token_suffix", embeddings[:, 1 + length :])
        self.register_buffer("tokenized_prompts", tokens, persistent=False)

    @staticmethod
    def _initial(
        clip: CLIP, words: str, length: int, class_specific: bool, n_classes: int
    ) -> Tensor:
        weight = clip.token_embedding.weight
        if words:
            ids = tokenize(words).to(weight.device)
            return clip.token_embedding(ids)[0, 1 : 1 + length].detach().to(clip.dtype).clone()
        shape = (length, weight.shape[1])
        ctx = torch.empty((n_classes, *shape) if class_specific else shape, dtype=clip.dtype)
        return nn.init.normal_(ctx, std=0.02).to(weight.device)

    def embeddings(self, ctx: Tensor | None = None, *, position: str | None = None) -> Tensor:
        """Assemble (C, L, W) token embeddings, positions not added.

        Args:
            ctx: (M, W) or (C, M, W) used in place of the trained context.
            position: of the class name, in place of the prompt's own.
        """
        ctx = self.ctx if ctx is None else ctx
        if ctx.dim() == 2:
            ctx = ctx.expand(len(self.token_prefix), -1, -1)
        layout = _LAYOUTS[position or self.position]
        return layout(ctx, self.token_prefix, self.token_suffix, self.name_lengths)

    @property
    def shared_length(self) -> int:
        """Leading tokens that all prompts share: start token and context, where it stands first."""
        return 1 + len(self.ctx) if self.ctx.dim() == 2 and self.position == "end" else 0


class ContextPrompt(LearnedPrompt, Method):
    """t_c = normalise(T(P(ctx))_c); the context is the only learned tensor (CoOp and its kin)."""

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        *,
        n_ctx: int,
        ctx_init: str = "",
        class_specific: bool = False,
        position: str = "end",
        learned_words: int | None = None,
        chunk: int = 0,
    ) -> None:
        """Args: as ``LearnedPrompt``; chunk: TRAIN.TEXT_CHUNK, see ``encode_prompts``."""
        super().__init__(
            clip,
            classnames,
            n_ctx=n_ctx,
            ctx_init=ctx_init,
            class_specific=class_specific,
            position=position,
            learned_words=learned_words,
        )
        self.chunk = chunk

    def raw_text_features(self, clip: CLIP, count: int | None = None) -> Tensor:
        """(C, D), before L2 normalisation; of the first ``count`` classes only, if given."""
        return encode_prompts(
            clip,
            self.tokenized_prompts[:count],
            embeddings=self.embeddings()[:count],
            chunk=self.chunk if self.training else 0,
            shared=self.shared_length,
        )

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.raw_text_features(clip), dim=-1)

    def import_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
        """Take ctx; prefix and suffix belong to this run's class names.

        Raises:
            ValueError: if there is no context, or it does not fit this run.
        """
        if "ctx" not in state:
            raise ValueError(
                f"The checkpoint holds no learned context (ctx), only: {', '.join(state)}."
            )
        ctx = state["ctx"]
        if ctx.dim() == 3 and source_classes is not None and list(source_classes) != list(classes):
            raise ValueError(
                "A class-specific context (TRAINER.COOP.CSC True) serves only the classes that it "
                "was trained on. Train with CSC False to evaluate on other classes."
            )
        if ctx.shape != self.ctx.shape:
            raise ValueError(_context_mismatch(ctx, self.ctx))
        return {**self.state_dict(), "ctx": ctx}


def _context_mismatch(given: Tensor, expected: Tensor) -> str:
    if given.shape[-1] != expected.shape[-1]:
        return (
            f"The checkpoint's context has vectors of width {given.shape[-1]}, this run's text "
            f"tower takes {expected.shape[-1]}. Give the backbone that it was trained with "
            "(--backbone), or point --model-dir elsewhere."
        )
    if given.dim() == expected.dim() == 3 and len(given) != len(expected):
        return (
            f"The checkpoint holds a context for each of {len(given)} classes, this run has "
            f"{len(expected)}. A class-specific context (TRAINER.COOP.CSC True) serves only the "
            "classes that it was trained on."
        )
    shapes = ["x".join(map(str, tensor.shape)) for tensor in (given, expected)]
    fix = f"Set TRAINER.COOP.N_CTX {given.shape[-2]}"
    if given.dim() != expected.dim():
        fix = f"Set TRAINER.COOP.CSC {given.dim() == 3}"
    return (
        f"The checkpoint was trained with {given.shape[-2]} context tokens (ctx: {shapes[0]}), "
        f"this run asks for {expected.shape[-2]} (ctx: {shapes[1]}). {fix} or point --model-dir "
        "elsewhere."
    )


def _end(ctx: Tensor, prefix: Tensor, suffix: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.cat([prefix, ctx, suffix], dim=1)


def _around(before: Callable[[int], int]) -> Callable[..., Tensor]:
    """A layout with ``before(M)`` context tokens in front of the class name, the others behind."""

    def assemble(ctx: Tensor, prefix: Tensor, suffix: Tensor, lengths: Sequence[int]) -> Tensor:
        half = before(ctx.shape[1])
        rows = [
            torch.cat([prefix[c], ctx[c, :half], suffix[c, :n], ctx[c, half:], suffix[c, n:]])
            for c, n in enumerate(lengths)
        ]
        return torch.stack(rows)

    return assemble


_LAYOUTS = {"end": _end, "middle": _around(lambda m: m // 2), "front": _around(lambda m: 0)}


def token_count(text: str) -> int:
    """Number of BPE tokens of a text, start and end markers not counted."""
    return int(eot_positions(tokenize(text))[0]) - 1


def _check_length(length: int, words: str, learned_words: int | None) -> None:
    learned = length if learned_words is None else learned_words
    if learned < 1:
        raise ValueError(
            f"A prompt with {learned} context tokens has nothing to learn: set N_CTX to at least 1."
        )
    if words and learned > length:
        raise ValueError(
            f"CTX_INIT {words!r} has {length} word(s), too few for {learned} prompt tokens: give "
            'more words, fewer tokens (N_CTX), or CTX_INIT "" for random ones.'
        )


def _tokenize_prompts(prompts: list[str], n_ctx: int) -> Tensor:
    try:
        return tokenize(prompts)
    except RuntimeError as err:
        raise ValueError(
            f"A prompt with {n_ctx} context tokens does not fit the text tower: {err}. "
            "Use fewer context tokens (N_CTX) or a shorter class name."
        ) from err


@torch.no_grad()
def pre_projection_features(
    clip: CLIP,
    classnames: Sequence[str],
    templates: Sequence[str],
    *,
    replace_underscores: bool = True,
) -> Tensor:
    """(C, W): mean over templates of ln_final's output at the end-of-text token."""
    total = 0
    for template in templates:
        names = [fill(template, c, replace_underscores=replace_underscores) for c in classnames]
        tokens = tokenize(names).to(clip.logit_scale.device)
        positions = eot_positions(tokens)
        states = clip.encode_text(tokens, pool=False)  # (L, C, W)
        rows = states[positions, torch.arange(len(names), device=positions.device)]
        total = total + clip.ln_final(rows)
    return total / len(templates)

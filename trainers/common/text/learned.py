"""Learned prompts: context vectors around class names."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clip.model import CLIP, TowerHook
from dassl.config import check_value, one_of
from trainers.common.method import Method, Names, State

from .class_words import words_of
from .encode import context_words, encode_prompts
from .groups import PromptGroup, PromptGroups


class FrozenPrompts:
    """Constant prompts whose blocks below ``start`` are frozen: those are run once, here.

    One pass per group of ``PromptGroups``; leading tokens that all prompts share are computed once
    per call of a causal tower.
    Valid as long as the backbone does not change, which no method of this package does below
    ``start``.
    """

    def __init__(self, clip: CLIP, tokens: Tensor, *, start: int = 0, shared: int = 0) -> None:
        """Args: tokens (N, L); start: first block that a hook changes; shared: leading tokens."""
        self.start, self.shared = start, shared if clip.is_causal else 0
        self.groups = PromptGroups(clip, tokens)
        self.states = [self._enter(clip, group) if start else None for group in self.groups.groups]

    @torch.no_grad()
    def _enter(self, clip: CLIP, group: PromptGroup) -> Tensor:
        """(L, n, W) hidden states before the first block that a hook changes."""
        return clip.encode_text(group.tokens, stop=self.start, shared=self.shared, read=group.read)

    def encode(self, clip: CLIP, *, hook: TowerHook | None = None, chunk: int = 0) -> Tensor:
        """(N, D) raw features in the order of the tokens; ``chunk`` as in ``encode_prompts``."""
        parts = []
        for group, states in zip(self.groups.groups, self.states, strict=True):
            size = chunk or len(group.rows)
            for first in range(0, len(group.rows), size):
                part = slice(first, first + size)
                own = None if states is None else states[:, part]
                ids, read = group.tokens[part], group.read[part]
                parts.append(self._encode(clip, ids, read, own, hook, recompute=chunk > 0))
        return self.groups.restore_order(parts)

    def _encode(
        self,
        clip: CLIP,
        ids: Tensor,
        read: Tensor,
        states: Tensor | None,
        hook: TowerHook | None,
        *,
        recompute: bool,
    ) -> Tensor:
        def run() -> Tensor:
            return clip.encode_text(
                ids, hook=hook, start=self.start, states=states, shared=self.shared, read=read
            )

        if recompute and torch.is_grad_enabled():
            return checkpoint(run, use_reentrant=False)
        return run()


class LearnedPrompt(nn.Module):
    """Token embeddings of "<context> <name>." with a learned context.

    Frozen parts are buffers: ``token_prefix`` (C, S, W) = start markers (CLIP's: 1),
    ``token_suffix`` (C, L-S-M, W) = what follows the context up to the longest end-of-text token
    (to the last position in a tower that is not causal), ``tokenized_prompts`` (C, 77).
    The trained context lives in ``ctx``: (M, W), or (C, M, W) when class-specific.
    """

    token_prefix: Tensor
    token_suffix: Tensor
    tokenized_prompts: Tensor
    of_this_run: tuple[str, ...] = ("token_prefix", "token_suffix")
    official_prefix = "prompt_learner."

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
        """Build prompts for C class names.

        Args:
            n_ctx: number of context tokens M; ignored when ``ctx_init`` is given.
            ctx_init: initial words, see ``context_words``; M is the number of their tokens.
            learned_words: only so many of these tokens are learned, the others stay fixed.
            class_specific: one context per class; ignored when ``ctx_init`` is given.
            position: of the class name: "end", "middle" or "front".
            chunk: TRAIN.TEXT_CHUNK, see ``encode_prompts``.

        Raises:
            ValueError: for an unknown position, a prompt too long for the text tower, no context
                token, or fewer words than are to be learned.
        """
        super().__init__()
        check_value("CLASS_TOKEN_POSITION", position, one_of(*LAYOUTS))
        names = [words_of(name) for name in classnames]
        words = context_words(ctx_init)
        length = token_count(clip, words) if words else n_ctx
        _check_length(length, words, learned_words)
        prefix_text = words or " ".join(["X"] * length)
        if words and learned_words is not None:
            length = learned_words
        tokens = _tokenize_prompts(clip, [f"{prefix_text} {name}." for name in names], length)
        _check_prefix(clip, tokens, prefix_text, length, is_filler=not words)
        longest = int(clip.prompt_lengths(tokens).max())
        with torch.no_grad():
            embeddings = clip.token_embedding(tokens[:, :longest]).to(clip.dtype)
        self.position, self.chunk = position, chunk
        self.name_lengths = [token_count(clip, name) for name in names]
        self.ctx = nn.Parameter(self._initial(clip, words, length, class_specific, len(names)))
        self.register_buffer("token_prefix", embeddings[:, : clip.text_start])
        self.register_buffer("token_suffix", embeddings[:, clip.text_start + length :])
        self.register_buffer("tokenized_prompts", tokens, persistent=False)
        self._groups: dict[tuple, PromptGroups] = {}

    def groups(
        self, clip: CLIP, *, count: int | None = None, times: int = 1, chunk: int = 0
    ) -> PromptGroups:
        """The groups that the prompts are encoded in, made once.

        Args:
            count: of the first classes only; None: of all.
            times: how often the prompts follow one another (with other contexts).
            chunk: see ``PromptGroups``.
        """
        key = (count, times, chunk, clip.logit_scale.device)
        if key not in self._groups:
            tokens = self.tokenized_prompts[:count].repeat(times, 1)
            self._groups[key] = PromptGroups(clip, tokens, chunk=chunk)
        return self._groups[key]

    @staticmethod
    def _initial(
        clip: CLIP, words: str, length: int, class_specific: bool, n_classes: int
    ) -> Tensor:
        weight = clip.token_embedding.weight
        if words:
            embedded = clip.token_embedding(clip.tokenize(words))[0, clip.text_start :]
            return embedded[:length].detach().to(clip.dtype).clone()
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
        layout = LAYOUTS[position or self.position]
        return layout(ctx, self.token_prefix, self.token_suffix, self.name_lengths)

    @property
    def shared_length(self) -> int:
        """Leading tokens that all prompts share: start and context, where it stands first."""
        return (
            self.token_prefix.shape[1] + len(self.ctx)
            if self.ctx.dim() == 2 and self.position == "end"
            else 0
        )


class ContextPrompt(LearnedPrompt, Method):
    """t_c = normalise(T(P(ctx))_c); the context is the only learned tensor (CoOp and its kin)."""

    def text_hook(self, clip: CLIP) -> TowerHook | None:
        """What the prompts change in the text tower's blocks; None: nothing."""
        return None

    def raw_text_features(self, clip: CLIP, count: int | None = None) -> Tensor:
        """(C, D), before L2 normalisation; of the first ``count`` classes only, if given."""
        chunk, hook = self.chunk if self.training else 0, self.text_hook(clip)
        return encode_prompts(
            clip,
            self.groups(clip, count=count, chunk=chunk),
            embeddings=self.embeddings()[:count],
            hook=hook,
            chunk=chunk,
            shared=self.shared_length if hook is None else 0,
        )

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.raw_text_features(clip), dim=-1)

    def adapt_state(self, state: State, source: Names | None, classes: Names) -> State:
        """A context serves any classes, unless it is class-specific.

        Raises:
            ValueError: if the context does not fit this run.
        """
        ctx = state.get("ctx", self.ctx)
        if ctx.dim() == 3 and source is not None and list(source) != list(classes):
            raise ValueError(
                "A class-specific context (TRAINER.COOP.CSC True) serves only the classes that it "
                "was trained on. Train with CSC False to evaluate on other classes."
            )
        if ctx.shape != self.ctx.shape:
            raise ValueError(_context_mismatch(ctx, self.ctx))
        return state


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
    fix = f"Set its number of context tokens (N_CTX) to {given.shape[-2]}"
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
    """A layout with ``before(M)`` context tokens before the class name, the others after it."""

    def assemble(ctx: Tensor, prefix: Tensor, suffix: Tensor, lengths: Sequence[int]) -> Tensor:
        half = before(ctx.shape[1])
        rows = [
            torch.cat([prefix[c], ctx[c, :half], suffix[c, :n], ctx[c, half:], suffix[c, n:]])
            for c, n in enumerate(lengths)
        ]
        return torch.stack(rows)

    return assemble


LAYOUTS = {"end": _end, "middle": _around(lambda m: m // 2), "front": _around(lambda m: 0)}


def token_count(clip: CLIP, text: str) -> int:
    """Number of tokens of a text, start and end markers not counted."""
    return int(clip.end_positions(clip.tokenize(text))[0]) - clip.text_start


def _check_length(length: int, words: str, learned_words: int | None) -> None:
    learned = length if learned_words is None else learned_words
    if learned < 1:
        raise ValueError(
            f"A prompt with {learned} context tokens has nothing to learn: set N_CTX to at least 1."
        )
    if words and learned > length:
        raise ValueError(
            f"CTX_INIT {words!r} has {length} token(s), too few for {learned} prompt tokens: give "
            'more words, fewer tokens (N_CTX), or CTX_INIT "" for random ones.'
        )


def _check_prefix(clip: CLIP, tokens: Tensor, prefix: str, length: int, *, is_filler: bool) -> None:
    """The first ``length`` tokens of every prompt have to be those of the prefix alone."""
    count = token_count(clip, prefix)
    own = clip.tokenize(prefix)[0, clip.text_start : clip.text_start + length]
    is_own = (tokens[:, clip.text_start : clip.text_start + length] == own).all()
    if not is_own or count < length or (is_filler and count > length):
        raise ValueError(
            f"The tokenizer of {clip.backbone_name} makes {count} tokens of {prefix!r}, or joins "
            f"it with a class name; a context of {length} tokens needs as many. Give other words "
            "(CTX_INIT)."
        )


def _tokenize_prompts(clip: CLIP, prompts: list[str], n_ctx: int) -> Tensor:
    try:
        return clip.tokenize(prompts)
    except RuntimeError as err:
        raise ValueError(
            f"A prompt with {n_ctx} context tokens does not fit the text tower: {err}. "
            "Use fewer context tokens (N_CTX) or a shorter class name."
        ) from err

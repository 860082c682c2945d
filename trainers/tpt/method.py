"""The prompts, and their steps on one image: entropy of the averaged confident views."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from trainers.common.testtime.confident_views import least_entropy_views
from trainers.common.text.encode import context_words, encode_prompts
from trainers.common.text.learned import ContextPrompt, token_count

CLASS_WORD = "[CLS]"  # in CTX_INIT: the class name's place
PLACEHOLDER_TOKENS = 4  # context length where no words are given and no file says another


def average_entropy(logits: Tensor) -> Tensor:
    """Entropy of the averaged softmax distributions of (k, C) logits, in nats.

    a = logsumexp_v(log_softmax(L_v)) - log k, at least the smallest float; -sum_c a_c exp(a_c).
    """
    log_mean = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
    log_mean = log_mean.clamp_min(torch.finfo(log_mean.dtype).min)
    return -(log_mean * log_mean.exp()).sum()


def view_entropies(logits: Tensor) -> Tensor:
    """(V, C) logits -> (V,) entropies of their softmax, in nats."""
    return -(logits.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1)


@dataclass
class Episode:
    """One image's adaptation; lists have one entry per step.

    Attributes:
        logits_before: (V, C) of every view with the initial context.
        selected: (k,) confident views, ascending.
        logits: (C,) of view 0 with the adapted context.
        losses, gradients, contexts: loss before, context gradient of, context after each step.
    """

    logits_before: Tensor
    selected: Tensor
    logits: Tensor
    losses: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    contexts: list[Tensor] = field(default_factory=list)


class TestTimePrompt(ContextPrompt):
    """t_c(ctx) = normalise(T([SOS, ctx, name_c, "."])).

    Per image with views f_v: p_v = softmax(s f_v . t(ctx)); S = the k views of the lowest H(p_v);
    ctx' = AdamW(ctx, dL/dctx), L = H(mean_{v in S} p_v); the answer is argmax_c f_0 . t_c(ctx').
    ``ctx`` (M, W) itself never changes: it is the value that every image begins with.
    """

    __test__ = False  # not a test of pytest's

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        *,
        ctx_init: str = "a_photo_of_a",
        n_ctx: int = PLACEHOLDER_TOKENS,
        chunk: int = 0,
    ) -> None:
        """Build prompts.

        Args:
            ctx_init: words, ``_`` counts as a blank; may hold [CLS] where the class name goes;
                empty: random vectors.
            n_ctx: context tokens without words.
            chunk: TRAIN.TEXT_CHUNK, see ``encode_prompts``.
        """
        words = context_words(ctx_init)
        before, place, _ = words.partition(CLASS_WORD)
        split = token_count(clip, before) if place else None
        text = " ".join(words.replace(CLASS_WORD, " ").split())
        super().__init__(clip, classnames, n_ctx=n_ctx, ctx_init=text, chunk=chunk)
        self.split = None if split == len(self.ctx) else split
        self.ctx.requires_grad_(False)

    def embeddings(self, ctx: Tensor | None = None, *, position: str | None = None) -> Tensor:
        """(C, L, W) token embeddings; the class name inside the context where [CLS] says so."""
        if self.split is None:
            return super().embeddings(ctx, position=position)
        ctx, k = self.ctx if ctx is None else ctx, self.split
        rows = [
            torch.cat([prefix, ctx[:k], suffix[:n], ctx[k:], suffix[n:]])
            for prefix, suffix, n in zip(
                self.token_prefix, self.token_suffix, self.name_lengths, strict=True
            )
        ]
        return torch.stack(rows)

    def text_of(self, clip: CLIP, ctx: Tensor) -> Tensor:
        """(M, W) context -> (C, D) unit rows."""
        embeddings = self.embeddings(ctx.to(self.ctx.dtype))
        groups = self.groups(clip, chunk=self.chunk)
        raw = encode_prompts(clip, groups, embeddings=embeddings, chunk=self.chunk)
        return F.normalize(raw.float(), dim=-1)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows of the initial context."""
        return self.text_of(clip, self.ctx)


class Adapter:
    """Adapts a context to one image after the other; nothing is carried over.

    The first step is shared by all images: the context is the same, so one text graph is kept and
    an image costs a vector-Jacobian product and one forward pass without graph per step.
    """

    def __init__(
        self,
        method: TestTimePrompt,
        clip: CLIP,
        *,
        steps: int,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        confident: int,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Encode the initial context.

        Args:
            method: prompts and initial context.
            clip: the frozen backbone.
            steps: TRAINER.TPT.TTA_STEPS; 0 only classifies.
            optimizer: makes one for each image.
            confident: number of views that the loss is over.
            autocast: around the text tower and the logits.
            scaler: of the losses, kept across images; where gradients overflow, an image goes
                without that step.
        """
        self.autocast, self.scaler = autocast, scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.method, self.clip, self.steps = method, clip, steps
        self.optimizer, self.confident = optimizer, confident
        self.scale = clip.logit_scale.detach().exp()
        self.start, self.text = self._graph(method.ctx)

    def _graph(self, ctx: Tensor) -> tuple[Tensor, Tensor]:
        """A context leaf and its text features, with graph where steps follow."""
        leaf = ctx.detach().clone().requires_grad_(self.steps > 0)
        with torch.set_grad_enabled(self.steps > 0), self.autocast():
            return leaf, self.method.text_of(self.clip, leaf)

    def adapt(self, views: Tensor, start: Tensor | None = None) -> Episode:
        """One image.

        Args:
            views: (V, D) unit rows, view 0 not augmented.
            start: (M, W) context to begin with; None: the method's own.
        """
        leaf, text = (self.start, self.text) if start is None else self._graph(start)
        with torch.no_grad():
            before = self.scale * views @ text.t()  # s f_v . t(ctx)
            selected = least_entropy_views(view_entropies(before), self.confident)  # S
        episode = Episode(before, selected, logits=before[0])
        if not self.steps:
            return episode
        ctx = nn.Parameter(leaf.detach().float().clone())  # AdamW's eps is 0 in float16
        optimizer = self.optimizer([ctx])
        for step in range(self.steps):
            if step:
                leaf, text = self._graph(ctx)
            loss, gradient = self._gradient(leaf, text, views[selected])
            ctx.grad = gradient.float()
            self.scaler.step(optimizer)  # ctx' = AdamW(ctx, dL/dctx)
            self.scaler.update()
            episode.losses.append(loss)
            episode.gradients.append(ctx.grad)
            episode.contexts.append(ctx.detach().clone())
        with torch.no_grad(), self.autocast():
            adapted = self.method.text_of(self.clip, ctx)
            episode.logits = self.scale * views[0] @ adapted.t()  # s f_0 . t(ctx')
        return episode

    def _gradient(self, leaf: Tensor, text: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and its scaled gradient w.r.t. the context, through the kept text graph."""
        with torch.enable_grad():
            features = text.detach().requires_grad_(True)
            loss = average_entropy(self.scale * views @ features.t())  # L = H(mean_{v in S} p_v)
            (cotangent,) = torch.autograd.grad(self.scaler.scale(loss), features)
        (gradient,) = torch.autograd.grad(text, leaf, cotangent, retain_graph=True)
        return loss.detach(), gradient

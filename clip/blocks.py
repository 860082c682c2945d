"""Transformer blocks of CLIP and the hook through which methods extend a tower.

CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv:2103.00020. Parity is tested in tests/golden/clip. The official code is MIT.

Token layout at every boundary of this file is (L, N, W): tokens, sequences, width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OWN_CLIP = (
    "This CLIP is one plain model. Trainer files that come with a CLIP of their own need that one: "
    "keep its clip/ folder beside their train.py (docs/compatibility.md). A method written for "
    "this package reaches into the towers through TowerHook (clip/blocks.py)."
)


def check_plain_call(tower: str, x: Any, more: tuple) -> None:
    """Refuse the calls of other CLIPs, whose towers take prompts or adapters beside the tokens.

    Raises:
        ValueError: `x` is a list, or there are more arguments.
    """
    given = f"{1 + len(more)} arguments" if more else ""
    if isinstance(x, (list, tuple)):
        given = f"a {type(x).__name__} of {len(x)}"
    if given:
        raise ValueError(f"The {tower} takes one tensor and was called with {given}. {OWN_CLIP}")


class LayerNorm(nn.LayerNorm):
    """Layer normalisation computed in float32; the result has the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's models."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class TowerHook:
    """What a method adds to a tower, passed per call and never stored by the backbone.

    Override one or both methods. `i` counts blocks from 0. The `block` given to :meth:`block` is a
    view made for the call: call it like a block, read its sub-modules (`block.ln_1`, `block.mlp`),
    and use `block.rows(x)` to pick, from any (L, N, W) tensor, the rows that the block returns.
    Only the last block of a pooled call picks: it computes the row that is read (CLS, or each
    prompt's EOT) and returns (1, N, W). In all other blocks `rows` is the identity.

    Attributes:
        all_rows: True makes the last block, too, return every token.
    """

    all_rows = False

    def embed(self, x: Tensor) -> Tensor:
        """Return the tokens that enter the tower.

        `x` (L, N, W) comes after the positional embedding and before ln_pre / the first block.
        A hook may append tokens; the row that is read (CLS or EOT) must keep its position.
        """
        return x

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        """Run block `i` on `x` (L, N, W)."""
        return block(x)


def pick_rows(x: Tensor, read: int | Tensor | None) -> Tensor:
    """Pick one token of every sequence: (L, N, W) -> (1, N, W); all of them if `read` is None.

    Args:
        x: (L, N, W).
        read: the same position for all sequences, or (N,) positions.
    """
    if read is None:
        return x
    if isinstance(read, int):
        return x[read : read + 1]
    return x[read, torch.arange(x.shape[1], device=x.device)].unsqueeze(0)


class Attention(nn.Module):
    """Multi-head scaled dot-product self-attention with OpenAI's parameter names.

    Learned: in_proj_weight (3W, W) and in_proj_bias (3W) stack q, k, v; out_proj (W, W).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"Width {width} is not a multiple of the number of heads, {heads}.")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(
        self,
        x: Tensor,
        *,
        read: int | Tensor | None = None,
        prefix: Tensor | None = None,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """(L, N, W) -> (L, N, W), or (1, N, W) with `read`.

        Args:
            x: normalised tokens that give queries, keys and values.
            read: only these tokens ask (see `pick_rows`); all give keys and values.
            prefix: (P, 1, W) normalised tokens before `x`, shared by all sequences: keys and
                values only.
            mask: broadcastable to (N, heads, queries, P + L); bool (True = may attend) or added.
            is_causal: token i attends to tokens j <= i; only without `mask`.
        """
        width, n = x.shape[-1], x.shape[1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if read is None and memory is None:
            q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
        else:
            q = F.linear(pick_rows(x, read), weight[:width], bias[:width])
            source = x if memory is None else memory
            k, v = F.linear(source, weight[width:], bias[width:]).chunk(2, dim=-1)
        if prefix is not None:
            shared = F.linear(prefix, weight[width:], bias[width:]).expand(-1, n, -1)
            prefix_k, prefix_v = shared.chunk(2, dim=-1)
            k, v = torch.cat([prefix_k, k]), torch.cat([prefix_v, v])
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        q, k, v = (self._split(t) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
        return self.out_proj(out.permute(2, 0, 1, 3).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3)  # (N, heads, L, d)


class ResidualAttentionBlock(nn.Module):
    """x = x + Attn(LN1(x)), then x = x + MLP(LN2(x)), MLP = c_proj(act(c_fc(.))).

    Args:
        d_model: width W.
        n_head: attention heads.
        attn_mask: (L, L) added to the attention scores, cut to the tokens at hand; None = no mask.
        causal: token i attends to tokens j <= i (the same as a causal `attn_mask`, but fused).
        activation: makes the MLP's activation.
        mlp_width: hidden width of the MLP (default: 4 W).
        eps: of both norms.
    """

    def __init__(
        self,
        d_model: int,
        n_head: int,
        attn_mask: Tensor | None = None,
        *,
        causal: bool = False,
        activation: Callable[[], nn.Module] = QuickGELU,
        mlp_width: int | None = None,
        eps: float = 1e-5,
    ):
        super().__init__()
        hidden = mlp_width or 4 * d_model
        self.attn = Attention(d_model, n_head)
        self.ln_1 = LayerNorm(d_model, eps)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(d_model, hidden))
        self.mlp.add_module("gelu", activation())
        self.mlp.add_module("c_proj", nn.Linear(hidden, d_model))
        self.ln_2 = LayerNorm(d_model, eps)
        self.attn_mask = attn_mask
        self.causal = causal

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        *,
        read: int | Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """(L, N, W) -> (L, N, W), or (1, N, W) with `read`.

        Args:
            x: tokens.
            attn_mask: replaces the block's own mask; (L, L), (N, L, L) or (N or 1, heads or 1, L,
                L); bool (True = may attend) or added to the scores. Row = query.
            read: compute only these tokens, see `pick_rows`.
            prefix: (P, 1, W) tokens that come before `x` in every sequence and are the same in
                all of them (the input of this block for them); they give keys and values.
        """
        mask, is_causal = self._mask(x, attn_mask, read, prefix)
        normed_prefix = None if prefix is None else self.ln_1(prefix)
        attended = self.attn(
            self.ln_1(x), read=read, prefix=normed_prefix, mask=mask, is_causal=is_causal
        )
        x = pick_rows(x, read) + attended
        return x + self.mlp(self.ln_2(x))

    def read_from(self, x: Tensor, memory: Tensor) -> Tensor:
        """Run the block for tokens that attend to others only, not to each other or themselves.

        Args:
            x: (K, N, W) tokens that ask; nothing attends to them.
            memory: (M, N, W) tokens that answer, as they enter this block.

        Returns:
            (K, N, W).
        """
        x = x + self.attn(self.ln_1(x), memory=self.ln_1(memory))
        return x + self.mlp(self.ln_2(x))

    def _mask(
        self,
        x: Tensor,
        attn_mask: Tensor | None,
        read: int | Tensor | None,
        prefix: Tensor | None,
    ) -> tuple[Tensor | None, bool]:
        length = x.shape[0]
        if attn_mask is None and self.causal:
            return _causal_mask(x, read, prefix)
        if attn_mask is None and self.attn_mask is not None:
            attn_mask = self.attn_mask[:length, :length]
        if attn_mask is None:
            return None, False
        if prefix is not None:
            raise ValueError("A shared prefix works with the block's own causal mask only.")
        if attn_mask.shape[-2:] != (length, length):
            raise ValueError(
                f"attn_mask is {tuple(attn_mask.shape)}, but there are {length} tokens: expected "
                f"({length}, {length}), (N, {length}, {length}) or (N, heads, {length}, {length})."
            )
        mask = attn_mask.to(x.device)
        mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
        if isinstance(read, int):
            mask = mask[..., read : read + 1, :]
        elif read is not None:
            mask = mask.expand(x.shape[1], *mask.shape[-3:]) if mask.ndim == 4 else mask
            sequences = torch.arange(x.shape[1], device=x.device)
            rows = mask[read][:, None] if mask.ndim == 2 else mask[sequences, :, read]
            mask = rows.unsqueeze(2)  # (N, heads or 1, 1, L)
        return mask, False


def _causal_mask(
    x: Tensor, read: int | Tensor | None, prefix: Tensor | None
) -> tuple[Tensor | None, bool]:
    """The causal mask for the queries at hand, and whether the fused causal kernel serves."""
    length, before = x.shape[0], 0 if prefix is None else prefix.shape[0]
    positions = torch.arange(before + length, device=x.device)
    if isinstance(read, int):
        return (positions <= before + read)[None], False  # (1, P + L)
    if read is not None:
        return (positions <= before + read[:, None])[:, None, None], False  # (N, 1, 1, P + L)
    if prefix is None:
        return None, True
    return positions <= positions[before:, None], False  # (L, P + L)


class BlockView:
    """A block during one call of a tower: knows which rows are read and what comes before."""

    def __init__(
        self,
        block: ResidualAttentionBlock,
        read: int | Tensor | None = None,
        prefix: Tensor | None = None,
        mask: Tensor | None = None,
    ):
        self._block = block
        self._read = read
        self._prefix = prefix
        self._mask = mask

    def __call__(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        mask = self._mask if attn_mask is None else attn_mask
        return self._block(x, mask, read=self._read, prefix=self._prefix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def rows(self, x: Tensor) -> Tensor:
        """The rows of `x` (L, N, W) that this block returns."""
        return pick_rows(x, self._read)


class BlockStack(nn.Module):
    """Blocks that are run one after the other on (L, N, W) tokens, with a hook around each.

    Args:
        width: W.
        blocks: called as ResidualAttentionBlock, with its ln_1 and ln_2.
    """

    def __init__(self, width: int, blocks: Iterable[nn.Module]):
        super().__init__()
        self.width = width
        self.resblocks = nn.Sequential(*blocks)
        self.layers = len(self.resblocks)

    def block(self, i: int) -> ResidualAttentionBlock:
        """Block `i`, counted from 0."""
        return cast(ResidualAttentionBlock, self.resblocks[i])

    def forward(
        self,
        x: Tensor,
        *more: object,
        hook: TowerHook | None = None,
        start: int = 0,
        stop: int | None = None,
        read: int | Tensor | None = None,
        shared: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Run blocks `start` to `stop` - 1.

        Args:
            x: (L, N, W), the input of block `start`.
            more: what other CLIPs take beside it; refused.
            hook: what a method adds, see TowerHook.
            start: first block, from 0.
            stop: block not run any more; None = run all.
            read: token to return, see `pick_rows`; used only if the last block is run.
            shared: the first `shared` tokens are the same in all N sequences and come before
                every row that is read: they are computed once, with N = 1. The hook then sees
                two calls per block, the shared tokens (P, 1, W) and the rest (L - P, N, W), so it
                has to treat tokens by content, not by position. Needs causal blocks.

        Returns:
            (L, N, W), or (1, N, W) with `read`.
        """
        check_plain_call("transformer", x, more)
        stop = self.layers if stop is None else stop
        if not 0 <= start <= stop <= self.layers:
            raise ValueError(
                f"Blocks {start} to {stop} asked for: this tower has blocks 0 to {self.layers - 1}"
                f" (need 0 <= start <= stop <= {self.layers})."
            )
        read = read if stop == self.layers and start < stop else None
        prefix = x[:shared, :1] if shared else None
        x = x[shared:] if shared else x
        read_here = read - shared if shared and read is not None else read
        for i in range(start, stop):
            is_last = read is not None and i == self.layers - 1
            view = BlockView(self.block(i), read_here if is_last else None, prefix, mask)
            n = x.shape[1]
            x = view(x) if hook is None else hook.block(i, view, x)
            if is_last:
                _check_last(x, n)
                return x
            if prefix is not None:
                view = BlockView(self.block(i))
                prefix = view(prefix) if hook is None else hook.block(i, view, prefix)
        if prefix is None:
            return x
        return torch.cat([prefix.expand(-1, x.shape[1], -1), x])


class Transformer(BlockStack):
    """A stack of residual attention blocks.

    Args:
        width: W.
        layers: number of blocks.
        heads: attention heads.
        attn_mask: see ResidualAttentionBlock.
        options: further arguments of ResidualAttentionBlock.
    """

    def __init__(
        self, width: int, layers: int, heads: int, attn_mask: Tensor | None = None, **options: Any
    ):
        blocks = (ResidualAttentionBlock(width, heads, attn_mask, **options) for _ in range(layers))
        super().__init__(width, blocks)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Random weights whose residual branches keep the variance of the sum bounded."""
        branch_std = (2 * self.layers * self.width) ** -0.5
        for block in map(self.block, range(self.layers)):
            nn.init.normal_(block.attn.out_proj.weight, std=branch_std)
            nn.init.zeros_(block.attn.out_proj.bias)
            c_fc, c_proj = (layer for layer in block.mlp if isinstance(layer, nn.Linear))
            nn.init.normal_(c_fc.weight, std=(2 * self.width) ** -0.5)
            nn.init.normal_(c_proj.weight, std=branch_std)


def _check_last(x: Tensor, n: int) -> None:
    if x.shape[:2] != (1, n):
        raise ValueError(
            f"TowerHook.block returned {tuple(x.shape)} for the last block, which returns only the "
            f"row that is read: expected (1, {n}, W). Wrap what the hook adds in block.rows(...), "
            "or set all_rows = True on the hook."
        )

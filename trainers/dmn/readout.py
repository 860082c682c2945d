"""Attention read-out of a class-wise memory, in a form that never builds a (B, C, D) tensor.

Zhang, Zhu, Tang, Ma, Zhou, Zhang: Dual Memory Networks, CVPR 2024, arXiv 2403.17589. Parity is
tested in tests/golden/dmn, equality with the plain form in tests/trainers/test_dmn.py.

The memory of class c holds unit rows x_i. With offsets b (class-wise, each optional), n(x) = x/|x|:

    q' = n(q + mean_c b_q)    k_i = n(x_i + b_k)    v_i = n(x_i + b_v)
    w_i = exp(-beta (1 - q'.k_i))    a = n(sum_i w_i v_i)    a' = n(a + b_o)    logit = tau a'.q

Everything follows from x_i.q (one matrix product per batch), x_i.b (once per memory content) and
the Gram matrix x_i.x_j: with u_i = w_i / |x_i + b_v|,

    z^2 = |sum_i w_i v_i|^2 = u'Xu + 2 (sum u)(u.Xb_v) + |b_v|^2 (sum u)^2
    logit = tau (sum_i w_i v_i.q / z + b_o.q) / sqrt(1 + 2 sum_i w_i v_i.b_o / z + |b_o|^2)
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

# Positions of TRAINER.DMN.POSITION -> the offsets that they train.
POSITIONS = {
    "none": (),
    "query": ("query",),
    "key": ("key",),
    "value": ("value",),
    "qkv": ("query", "key", "value"),
    "output": ("output", "text"),
    "all": ("query", "key", "value", "output", "text"),
}


@dataclass(frozen=True)
class Offsets:
    """Class-wise offsets of a read-out, (C, D) each; None is a zero that costs nothing."""

    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    output: Tensor | None = None

    def of_class(self, c: int) -> "Offsets":
        """The offsets of one class, (1, D) each; the query offset stays: it is a mean."""
        rows = {n: getattr(self, n) for n in ("key", "value", "output")}
        return replace(self, **{n: None if b is None else b[c : c + 1] for n, b in rows.items()})


@dataclass(frozen=True)
class SlotTerms:
    """Products of slots and offsets: what a read-out needs beside x.q; None without the offset.

    Args:
        query, key, value, output: (C, S), x_i . b.
    """

    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    output: Tensor | None = None

    def of_class(self, c: int) -> "SlotTerms":
        """The terms of one class, (1, S) each."""
        rows = {f.name: getattr(self, f.name) for f in fields(self)}
        return SlotTerms(**{n: None if t is None else t[c : c + 1] for n, t in rows.items()})


def slot_terms(slots: Tensor, offsets: Offsets) -> SlotTerms:
    """(C, S, D) slots -> their products with the offsets, in one pass over the slots."""
    vectors = {
        "query": None
        if offsets.query is None
        else offsets.query.mean(dim=0).expand(len(slots), -1),
        "key": offsets.key,
        "value": offsets.value,
        "output": offsets.output,
    }
    present = {name: vector for name, vector in vectors.items() if vector is not None}
    if not present:
        return SlotTerms()
    products = slots @ torch.stack(list(present.values()), dim=-1)  # (C, S, n)
    return SlotTerms(**dict(zip(present, products.unbind(dim=-1), strict=True)))


def update_terms(
    terms: SlotTerms,
    offsets: Offsets,
    c: int,
    slot: int,
    feature: Tensor,
    mean_query: Tensor | None,
) -> None:
    """Recompute, in place, the terms of one slot that now holds ``feature`` (D,)."""
    if terms.query is not None and mean_query is not None:
        terms.query[c, slot] = feature @ mean_query
    for name in ("key", "value", "output"):
        term = getattr(terms, name)
        if term is not None:
            term[c, slot] = feature @ getattr(offsets, name)[c]


def read_logits(
    products: Tensor,
    queries: Tensor,
    gram: Tensor,
    *,
    offsets: Offsets,
    terms: SlotTerms,
    mean_query: Tensor | None,
    beta: float,
    scale: float | Tensor,
    occupied: Tensor | None = None,
    channel_products: Tensor | None = None,
    channels: Tensor | None = None,
) -> Tensor:
    """Logits of the cosine classifier that the memory forms for each query.

    Args:
        products: (C, S, B), x_i . q.
        queries: (B, D) unit rows.
        gram: (C, S, S), x_i . x_j.
        offsets: of these C classes.
        terms: ``slot_terms`` of these slots.
        mean_query: (D,) mean of the query offset over all classes; None without.
        beta: sharpness of the weights.
        scale: tau, the multiplier itself.
        occupied: (C, S), 1 for slots that hold something, 0 for empty ones; None: all do.
        channel_products: (C, S, B), x_i . (q * channels), where the last product is over some
            channels only.
        channels: (D,), 1 for the channels of the last product; norms are over all of them.

    Returns:
        (C, B) logits, tau a'.q.
    """
    similarities = _similarities(products, queries, gram, offsets, terms, mean_query)
    weights = torch.exp(beta * (similarities - 1.0))  # exp(-beta (1 - cos(q', x')))
    if occupied is not None:
        weights = weights * occupied[..., None]
    if channels is not None and channel_products is not None:
        products, queries = channel_products, queries * channels
    return _pooled_logits(weights, products, queries, gram, offsets, terms) * scale


def _similarities(
    products: Tensor,
    queries: Tensor,
    gram: Tensor,
    offsets: Offsets,
    terms: SlotTerms,
    mean_query: Tensor | None,
) -> Tensor:
    """(C, S, B) cosines of the shifted queries and keys."""
    shifted = queries
    if mean_query is not None and terms.query is not None:
        shifted = queries + mean_query
        norms = shifted.norm(dim=-1)  # (B,)
        shifted = shifted / norms[:, None]
        products = (products + terms.query[..., None]) / norms
    if offsets.key is None or terms.key is None:
        return products
    squares = gram.diagonal(dim1=1, dim2=2) + 2 * terms.key  # (C, S)
    norms = (squares + offsets.key.square().sum(dim=-1, keepdim=True)).clamp_min(1e-12).sqrt()
    # an empty slot is masked later; with a zero offset its norm would be 0
    return (products + (offsets.key @ shifted.t())[:, None]) / norms[..., None]


def _pooled_logits(
    weights: Tensor,
    products: Tensor,
    queries: Tensor,
    gram: Tensor,
    offsets: Offsets,
    terms: SlotTerms,
) -> Tensor:
    """(C, B) cosines of the pooled, shifted class vectors with the queries."""
    if offsets.value is None or terms.value is None:
        squares = (weights * (gram @ weights)).sum(dim=1)  # (C, B)
        pooled = (weights * products).sum(dim=1)
    else:
        norm = offsets.value.square().sum(dim=-1, keepdim=True)  # (C, 1)
        lengths = gram.diagonal(dim1=1, dim2=2) + 2 * terms.value + norm
        weights = weights / lengths.clamp_min(1e-12).sqrt()[..., None]
        total = weights.sum(dim=1)
        squares = (weights * (gram @ weights + 2 * terms.value[..., None] * total[:, None])).sum(1)
        squares = squares + norm * total.square()
        pooled = (weights * products).sum(dim=1) + (offsets.value @ queries.t()) * total
    inverse = squares.rsqrt()
    if offsets.output is None or terms.output is None:
        return pooled * inverse
    shifts = (weights * terms.output[..., None]).sum(dim=1)
    if offsets.value is not None:
        shifts = shifts + (offsets.value * offsets.output).sum(dim=-1, keepdim=True) * total
    lengths = 1 + 2 * shifts * inverse + offsets.output.square().sum(dim=-1, keepdim=True)
    return (pooled * inverse + offsets.output @ queries.t()) * lengths.rsqrt()


def class_products(slots: Tensor, queries: Tensor) -> Tensor:
    """(C, S, D) slots, (B, D) queries -> (C, S, B), x_i . q, in one matrix product."""
    return (slots.flatten(0, 1) @ queries.t()).unflatten(0, slots.shape[:2])


def important_channels(text_features: Tensor, count: int, weight: float) -> Tensor:
    """The ``count`` channels that tell classes apart best.

    crit_d = -weight r_d + (1 - weight) var_d; r_d = mean over pairs i != j of t_id t_jd, in closed
    form; var_d the unbiased variance over classes.

    Args:
        text_features: (C, D) unit rows.
        count: number of channels, 1 to D.
        weight: TRAINER.DMN.LAMBDA_APE, 0 to 1.

    Returns:
        (count,) int64, ascending.

    Raises:
        ValueError: for fewer or more channels than there are, or a single class.

    Source: APE's channel selection, as the official code of DMN uses it.
    """
    classes, width = text_features.shape
    if not 0 < count <= width:
        raise ValueError(
            f"TRAINER.DMN.NUM_IMPORTANT_CHANNEL is {count}; the features have {width} channels, "
            "and 0 keeps all of them."
        )
    if classes < 2:
        raise ValueError(
            f"TRAINER.DMN.NUM_IMPORTANT_CHANNEL {count} compares classes, and there is only one: "
            "set it to 0, which keeps all channels."
        )
    sums, squares = text_features.sum(dim=0), text_features.square().sum(dim=0)
    redundancy = (sums.square() - squares) / (classes * (classes - 1))
    criterion = -weight * redundancy + (1 - weight) * text_features.var(dim=0)
    return criterion.topk(count).indices.sort().values


def unit(rows: Tensor) -> Tensor:
    """Rows divided by their norm."""
    return F.normalize(rows, dim=-1)

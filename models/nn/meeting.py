"""Two texts that meet in a transformer's layers: tokens of one attend to the other's too.

A layer is two functions. `remember` gives the keys and values of a text's tokens. `attend` lets
tokens of a text attend to its own and to the other text's. With the layer's own weights and no
other text they are the layer itself.

Each head has a number, its *reach*, that is added to its scores of the other text's tokens. Far
below zero the texts do not see each other: an encoder of single texts starts from there and keeps
its answers, and learns from them where to look.

Sources: Song et al. 2023, Uni-Encoder, arXiv 2106.01263, for a context that is encoded once and
candidates that share positions and never see each other; Alayrac et al. 2022, Flamingo, arXiv
2204.14198, for a gate that starts closed. That the context never reads candidates is ours.
"""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.core import Cost
from models.nn.exit import Exit, unit_vectors
from models.nn.quantized import bytes_of, linear, linear_bytes
from models.nn.ragged import Layout, Ragged, Value
from models.nn.transformer import Attention, Layer


def remember(layer: Layer, groups: int, x: Ragged) -> Ragged:
    """Return the keys and values of tokens, shape [tokens, groups * 2 * head_dim].

    Args:
        layer: Whose; with norms after each sum.
        groups: Of heads, 1..kv_heads.
        x: What enters the layer.
    """
    queries = layer.attention.config.group * layer.attention.config.head_dim
    return x.replace(_projected(layer, groups, slice(queries, None), x))


def attend(
    layer: Layer, groups: int, units: int, reach: Tensor, x: Ragged, own: Ragged, other: Ragged
) -> Ragged:
    """Map the tokens of rows that see themselves and a row each of other tokens.

    Args:
        layer: Whose weights.
        groups: Of heads.
        units: Of the feed-forward part.
        reach: Added to the scores of the other tokens, by head; the first are taken.
        x: What enters the layer, [tokens, hidden].
        own: What `remember` gives of it.
        other: What it gives of the others, as many rows.

    Returns:
        Shape [tokens, hidden], of the rows of ``x``.
    """
    config = layer.attention.config
    query = _projected(layer, groups, slice(config.group * config.head_dim), x)
    heads = (groups * config.group, config.head_dim)
    parts = [
        _attended(reach[: heads[0]], query[tokens].view(-1, *heads), *block)
        for tokens, block in _blocks(x.layout, groups, own, other)
    ]
    return layer.finish(units, x, parts[0] if len(parts) == 1 else torch.cat(parts))


def remember_cost(layer: Layer, groups: int, length: int, bits: int) -> Cost:
    """Return the cost of `remember` for a row of some length."""
    config = layer.attention.config
    outputs = groups * 2 * config.head_dim
    held = _bytes(layer.attention, outputs, bits)
    return Cost(length * config.hidden * outputs, held)


def attend_cost(layer: Layer, groups: int, units: int, length: int, every: int, bits: int) -> Cost:
    """Return the cost of `attend` for a row of some length, which sees as many tokens as told."""
    config = layer.attention.config
    inner = groups * config.group * config.head_dim
    attention = 2 * inner * config.hidden + 2 * every * inner
    held = (
        _bytes(layer.attention, inner, bits)
        + 4 * groups * config.group  # the reach of each head
        + layer.attention.out.bytes(inner, config.hidden, bits)
        + layer.ffn.bytes(units, bits)
        + layer.ffn.down.bytes(units, config.hidden, bits)
        + bytes_of(layer.attention_norm, layer.ffn_norm)
    )
    return Cost(length * attention + layer.ffn.macs(units, length), held)


class CosineScore(nn.Linear):
    """A line of the cosine of two unit vectors."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    @torch.no_grad()
    def start(self, scale: float, bias: float) -> None:
        """Begin as ``scale`` times the cosine plus ``bias``."""
        self.weight.fill_(scale)
        self.bias.fill_(bias)

    def score(self, first: Tensor, second: Tensor) -> Tensor:
        """Map unit vectors, shape [rows, width] each, to a number a row."""
        return self((first * second).sum(dim=1, keepdim=True))[:, 0]  # type: ignore[no-any-return]


class PairScore(nn.Linear):
    """A number of two texts, from a unit vector of each: a, b and their product, value by value."""

    def __init__(self, width: int) -> None:
        super().__init__(3 * width, 1)

    @torch.no_grad()
    def start(self, scale: float, bias: float) -> None:
        """Begin as ``scale`` times the cosine plus ``bias``."""
        self.weight.zero_()[:, : self.in_features // 3] = scale
        self.bias.fill_(bias)

    def score(self, first: Tensor, second: Tensor) -> Tensor:
        """Map unit vectors, shape [rows, width] each, to a number a row."""
        return self(torch.cat((first * second, first, second), dim=1))[:, 0]  # type: ignore[no-any-return]


def score(
    head: CosineScore | PairScore, exit_: Exit, width: int, first: Value, second: Value
) -> Tensor:
    """Return a number a row of two texts, each a unit vector or tokens for the exit to pool."""
    vectors = (
        unit_vectors(exit_, width, None, one) if isinstance(one, Ragged) else one
        for one in (first, second)
    )
    return head.score(*vectors)


def _projected(layer: Layer, groups: int, rows: slice, x: Ragged) -> Tensor:
    """Return some of the rows of the joint projection of queries, keys and values."""
    attention = layer.attention
    weight = attention.qkv[:groups, rows].flatten(0, 1)
    bias, steps = (
        None if whole is None else whole[:groups, rows].flatten()
        for whole in (attention.qkv_bias, attention.qkv_steps)
    )
    return linear(layer.attention_input(x).values, weight, bias, steps)


def _blocks(
    layout: Layout, groups: int, own: Ragged, other: Ragged
) -> list[tuple[slice, tuple[Ragged, Ragged]]]:
    """Return runs of neighbouring rows of equal lengths: their tokens and memories."""

    def memories(mine: slice, theirs: slice, layouts: tuple[Layout, Layout]) -> tuple[Ragged, ...]:
        values = (own.values[mine], other.values[theirs])
        return tuple(
            Ragged(one.view(one.shape[0], groups, 2, -1), of)
            for one, of in zip(values, layouts, strict=True)
        )

    if layout.is_one_block:
        every = slice(None)
        a, b = memories(every, every, (layout, other.layout))
        return [(every, (a, b))]
    found, first, second = [], 0, 0
    for (n, m), rows in groupby(zip(layout.lengths, other.layout.lengths, strict=True)):
        count = len(list(rows))
        mine, theirs = slice(first, first + count * n), slice(second, second + count * m)
        layouts = (Layout([n] * count, layout.device), Layout([m] * count, layout.device))
        a, b = memories(mine, theirs, layouts)
        found.append((mine, (a, b)))
        first, second = mine.stop, theirs.stop
    return found


def _attended(reach: Tensor, query: Tensor, own: Ragged, other: Ragged) -> Tensor:
    """Attend to two sets of tokens; from [tokens, heads, head_dim] to [tokens, inner]."""
    layout = own.layout
    # [rows, heads, longest, head_dim]
    q = layout.pad(query).transpose(1, 2)
    both = torch.cat([one.layout.pad(one.values) for one in (own, other)], 1)
    k, v = (both[:, :, :, i].transpose(1, 2) for i in (0, 1))
    near, far = (q.new_zeros(q.shape[1], one.layout.longest) for one in (own, other))
    mask = torch.cat((near, far + reach[:, None]), 1)[None, :, None]
    if not (layout.is_uniform and other.layout.is_uniform):
        present = torch.cat((layout.present, other.layout.present), 1)[:, None, None]
        mask = mask.masked_fill(~present, -torch.inf)
    mask = mask.expand(q.shape[0], -1, q.shape[2], -1)
    found = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1]
    )
    return layout.unpad(found.transpose(1, 2)).flatten(1)


def _bytes(attention: Attention, outputs: int, bits: int) -> int:
    biases = 0 if attention.qkv_bias is None else 4 * outputs
    return linear_bytes(attention.config.hidden, outputs, bits) + biases

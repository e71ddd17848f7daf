"""From the packed tokens of a row to one vector: each way, and several joined.

Source: UKPLab/sentence-transformers 6.2, module ``Pooling``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from models.nn.ragged import Layout, Ragged

Pooling = Literal["mean", "cls", "last", "max", "sqrt", "weighted", "rest"]
"""``cls`` and ``last``: the first and the last token. ``sqrt``: the sum over the root of the number
of tokens. ``weighted``: a mean in which the n-th token counts n times. ``rest``: the mean
of all but the first."""


def poolings_of(pooling: Pooling | tuple[Pooling, ...]) -> tuple[Pooling, ...]:
    """Return the ways whose vectors are joined."""
    return (pooling,) if isinstance(pooling, str) else pooling


def pooled_by(pooling: Pooling | tuple[Pooling, ...], hidden: Ragged, values: Tensor) -> Tensor:
    """Pool values of the packed tokens.

    Args:
        pooling: One way or several.
        hidden: Says which tokens are whose.
        values: Shape [tokens, width].

    Returns:
        Shape [rows, ways * width].
    """
    ways = poolings_of(pooling)
    found = [_pooled(way, hidden.layout, values) for way in ways]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _pooled(way: Pooling, layout: Layout, values: Tensor) -> Tensor:
    if way == "mean":
        return layout.mean(values)
    if way == "cls":
        return layout.first(values)
    if way == "last":
        return layout.last(values)
    if way == "max":
        padded = layout.pad(values)
        return padded.masked_fill(~layout.present[..., None], -torch.inf).amax(1)
    if way == "sqrt":
        return layout.mean(values) * layout.counts[:, None].sqrt()
    if way == "rest":
        counts = layout.counts[:, None]
        rest: Tensor = (layout.mean(values) * counts - layout.first(values)) / (counts - 1)
        return rest
    weights = (layout.positions + 1)[:, None].to(values.dtype)
    return layout.mean(values * weights) / layout.mean(weights)

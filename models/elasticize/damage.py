"""How much a layer's forms lose, before anything is run: the part of its output not explained.

Heads and units lie most important first, so the forms of a layer are nested, and one Cholesky
factorisation gives what each number of them explains: with G = L L', the first k columns of
L^-1 X'Y carry what the first k inputs explain of Y.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.elasticize.refit import RIDGE, Regression, weights_of
from models.elasticize.streams import (
    Streams,
    after_attention,
    read_by_heads,
    read_by_units,
)
from models.nn.transformer import Layer


class Unexplained(NamedTuple):
    """Shares of the variance of a layer's sums that its forms cannot give.

    Attributes:
        heads: With the first 1 .. kv_heads groups, shape [kv_heads].
        units: With the first 1 .. ffn units, shape [ffn].
        linear: With one linear map.
    """

    heads: Tensor
    units: Tensor
    linear: float


@torch.no_grad()
def unexplained(layers: Sequence[Layer], streams: Streams) -> list[Unexplained]:
    """Return what each layer's forms lose of its sums, on the whole model's own streams."""
    found = []
    for i, layer in enumerate(layers):
        config = layer.attention.config
        hidden, inner = config.hidden, config.group * config.head_dim
        heads = Regression(config.kv_heads * inner, hidden)
        units = Regression(config.ffn, hidden)
        linear, sums = Regression(hidden, hidden), Regression(1, hidden)
        of = zip(streams.after(layers, i), streams.attention[i], streams.ffn[i], strict=True)
        for x, attention, ffn in of:
            h = after_attention(layer, attention)
            said = layer.attention(read_by_heads(layer, x), config.kv_heads)
            heads.add(said, attention - x.values, weights_of(layer, attention))
            active = layer.ffn(read_by_units(layer, h), config.ffn)
            units.add(active, ffn - h, weights_of(layer, ffn))
            read = read_by_heads(layer, x).values
            aim = ffn if layer.is_post else ffn - x.values
            linear.add(read, aim, weights_of(layer, ffn))
            sums.add(ffn[:, :1], ffn, weights_of(layer, ffn))
        total = sums.variance()
        found.append(
            Unexplained(
                (heads.residuals(RIDGE)[inner - 1 :: inner] / total).float(),
                (units.residuals(RIDGE) / total).float(),
                float(linear.residuals(RIDGE)[-1] / total),
            )
        )
    return found

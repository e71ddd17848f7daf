"""Low-rank factors in every layer in place of fewer heads and units, fitted without a gradient.

Each linear map becomes two with a bottleneck. Maps into heads and units keep the directions in
which their outputs vary most on the calibration texts. Output maps are fitted by reduced-rank ridge
regression to what the whole layers gave, from what the factored stack gives up to there: the repair
of narrower layers, with another constraint.

Sources: Izenman 1975, Reduced-rank regression, Journal of Multivariate Analysis 5(2); Yuan et al.
2023, ASVD, arXiv 2312.05821, for factors that know the activations.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from models.elasticize.refit import RIDGE
from models.elasticize.streams import (
    Stack,
    Streams,
    after_attention,
    read_by_heads,
    read_by_units,
)
from models.nn.transformer import Layer


def ranks(layer: Layer, share: float, length: int) -> dict[str, int]:
    """Return the rank of each map at which layers take a share of their multiply-accumulates.

    Ranks are in proportion to the largest that save anything. Products of attention stay.
    """
    config = layer.attention.config
    hidden, inner = config.hidden, config.heads * config.head_dim
    sizes = {
        "qkv": (hidden, layer.attention.qkv.shape[0] * layer.attention.qkv.shape[1]),
        "out": (inner, hidden),
        "up": (hidden, config.ffn),
        "down": (config.ffn, hidden),
    }
    products = 2 * length * inner
    linear = sum(a * b for a, b in sizes.values())
    left = (share * (linear + products) - products) / linear
    return {name: max(1, int(left * a * b / (a + b))) for name, (a, b) in sizes.items()}


@torch.no_grad()
def factored(model: Any, streams: Streams, share: float, length: int) -> Any:
    """Return a copy of a model whose layers' weights are products of their factors."""
    made = copy.deepcopy(model)
    xs = list(streams.entry)
    for i, layer in enumerate(Stack(made).layers):
        rank = ranks(layer, share, length)
        config = layer.attention.config
        reads = [read_by_heads(layer, x) for x in xs]
        qkv = layer.attention.qkv
        weight, bias = _along(
            qkv.flatten(0, 1), torch.cat([read.values for read in reads]), rank["qkv"]
        )
        qkv.copy_(weight.view_as(qkv))
        if layer.attention.qkv_bias is not None:
            layer.attention.qkv_bias.add_(bias.view_as(layer.attention.qkv_bias))
        said = [layer.attention(read, config.kv_heads) for read in reads]
        aim = torch.cat([a - x.values for a, x in zip(streams.attention[i], xs, strict=True)])
        _fit(layer.attention.out, torch.cat(said), aim, rank["out"])
        hs = [
            after_attention(layer, x.values + layer.attention.out(heads))
            for x, heads in zip(xs, said, strict=True)
        ]
        read = torch.cat([read_by_units(layer, h) for h in hs])
        weight, bias = _along(layer.ffn.up.weight, read, rank["up"])
        layer.ffn.up.weight.copy_(weight)
        layer.ffn.up.bias.add_(bias)
        units = layer.ffn(read, config.ffn)
        aim = torch.cat([a - h for a, h in zip(streams.ffn[i], hs, strict=True)])
        _fit(layer.ffn.down, units, aim, rank["down"])
        xs = [layer(config.kv_heads, config.ffn, x) for x in xs]
    return made


def _along(weight: Tensor, read: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return a weight of a rank that keeps the outputs' variance, and what its bias gains."""
    outputs = (read @ weight.T).double()
    mean = read.double().mean(0)
    outputs = outputs - outputs.mean(0)
    kept = torch.linalg.eigh(outputs.T @ outputs).eigenvectors[:, -rank:]
    narrow = kept @ (kept.T @ weight.double())
    return narrow.float(), ((weight.double() - narrow) @ mean).float()


def _fit(linear: Any, x: Tensor, y: Tensor, rank: int) -> None:
    """Fit a map by ridge regression, of its outputs the directions that vary most."""
    mean, aim = x.double().mean(0), y.double().mean(0)
    centred = x.double() - mean
    gram = centred.T @ centred
    own = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(own, centred.T @ (y.double() - aim)).T
    kept = torch.linalg.eigh(weight @ gram @ weight.T).eigenvectors[:, -rank:]
    weight = kept @ (kept.T @ weight)
    linear.weight.copy_(weight)
    linear.bias.copy_(aim - weight @ mean)

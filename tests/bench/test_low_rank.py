"""Factors of the bench against the ranks and costs that they stand for."""

from __future__ import annotations

import pytest
import torch

from bench.low_rank import factored, ranks
from models.families.pruned import LayerForm
from search.offline.cuts import macs_of
from tests.models.elasticize.whole import parts_of


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_factors_cost_the_share_that_is_asked_for(share: float) -> None:
    parts = parts_of("post")
    layer = parts.stack.layers[0]
    config, length = layer.attention.config, 9
    hidden, inner = config.hidden, config.heads * config.head_dim
    found = ranks(layer, share, length)
    macs = found["qkv"] * (hidden + layer.attention.qkv[..., 0].numel())
    macs += found["out"] * (inner + hidden) + (found["up"] + found["down"]) * (hidden + config.ffn)
    whole = macs_of((LayerForm("whole"),), [layer], length)
    total = length * (macs + 2 * length * inner)
    assert share - 0.15 < total / whole <= share


def test_maps_have_their_rank_and_lose_less_the_higher_it_is() -> None:
    parts = parts_of("post")
    ends = torch.cat([x.values for x in parts.streams.after(parts.stack.layers, 4)])
    errors = []
    for share in (0.4, 0.6, 0.9):
        made = factored(parts.model, parts.streams, share, 9)
        rank = ranks(parts.stack.layers[0], share, 9)
        for layer in made.layers:
            weights = {"out": layer.attention.out.weight, "down": layer.ffn.down.weight}
            weights |= {"up": layer.ffn.up.weight, "qkv": layer.attention.qkv.flatten(0, 1)}
            for name, weight in weights.items():
                assert int(torch.linalg.matrix_rank(weight, rtol=1e-4)) <= rank[name]
        found = []
        for x in parts.streams.entry:
            for layer in made.layers:
                x = layer(layer.attention.config.kv_heads, layer.attention.config.ffn, x)
            found.append(x.values)
        errors.append(float((torch.cat(found) - ends).pow(2).mean()))
    assert errors[0] > errors[1] > errors[2]

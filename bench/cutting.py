"""Uniform cuts of a ranked model, and repairs beside the one of `rheostat elasticize`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from models.elasticize.refit import Map, Maps, Refit
from models.elasticize.streams import Stack, Streams
from models.families.pruned import LayerForm
from search.offline.cuts import Forms, macs_of

REPAIRS = ("none", "bias", "ridge")


def even(model: Any, share: float, length: int) -> Forms:
    """Return the cut with as many heads and units in every layer as a share of MACs allows."""
    layers = list(model.layers)
    config = layers[0].attention.config
    whole = macs_of((LayerForm("whole"),) * len(layers), layers, length)
    found: dict[tuple[float, float], Forms] = {}
    for groups in range(1, config.kv_heads + 1):
        for units in range(16, config.ffn + 1, 16):
            forms = (LayerForm("narrow", groups, units),) * len(layers)
            if macs_of(forms, layers, length) <= share * whole:
                shares = groups / config.kv_heads, units / config.ffn
                found[min(shares), sum(shares)] = forms  # in like shares, as large as fits
    return found[max(found)]


def repaired(repair: str, model: Any, streams: Streams, forms: Forms) -> Sequence[Maps]:
    """Return the output maps of a cut by one of `REPAIRS`."""
    stack = Stack(model)
    if repair == "ridge":
        return Refit(stack.layers, streams).fit(forms)
    found: list[Maps] = []
    for i, (layer, form) in enumerate(zip(stack.layers, forms, strict=True)):
        config = layer.attention.config
        inner = form.groups * config.group * config.head_dim
        out, down = layer.attention.out, layer.ffn.down
        maps = [
            Map(out.weight[:, :inner], out.bias),
            Map(down.weight[:, : form.units], down.bias),
        ]
        if repair == "bias":
            maps = with_means(maps, stack, streams, i, form)
        found.append(tuple(maps))
    return found


def with_means(
    maps: Sequence[Map], stack: Stack, streams: Streams, i: int, form: LayerForm
) -> list[Map]:
    """Return maps with the mean of what was left out in their biases."""
    layer = stack.layers[i]
    config = layer.attention.config
    inner = form.groups * config.group * config.head_dim
    with torch.no_grad():
        xs = streams.after(stack.layers, i)
        heads = torch.cat([layer.attention(x, config.kv_heads) for x in xs]).mean(0)
        middle = [layer.attention_norm(total) for total in streams.attention[i]]
        units = torch.cat([layer.ffn(h, config.ffn) for h in middle]).mean(0)
        lost = (
            layer.attention.out.weight[:, inner:] @ heads[inner:],
            layer.ffn.down.weight[:, form.units :] @ units[form.units :],
        )
    return [Map(one.weight, one.bias + own) for one, own in zip(maps, lost, strict=True)]

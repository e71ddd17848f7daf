"""Cuts of a ranked model without a search, and repairs beside that of `rheostat elasticize`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from models.elasticize.refit import Map, Maps, Refit
from models.elasticize.streams import Stack, Streams
from models.families.pruned import LayerForm
from models.train.ranking import Importance
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


def by_two_orders(model: Any, importance: Sequence[Importance], share: float, length: int) -> Forms:
    """Return the cut of most importance by one order of all heads and one of all units.

    Every number of heads is tried, and filled up with units. All cuts are leading slices of one
    permuted model. The first head and unit of a layer always stay.

    Source: Khaki and Plataniotis 2024, OPTIN, arXiv 2403.17921, the search under a budget.

    Args:
        model: With its heads and units in order.
        importance: Of each layer, in any order.
        share: Of the layers' MACs.
        length: Tokens of a typical row.
    """
    layers = list(model.layers)
    least = macs_of((LayerForm("narrow", 1, 1),) * len(layers), layers, length)
    most = share * macs_of((LayerForm("whole"),) * len(layers), layers, length)
    of_head = layers[0].macs(2, 1, length) - layers[0].macs(1, 1, length)
    of_unit = layers[0].macs(1, 2, length) - layers[0].macs(1, 1, length)
    heads, units = (
        sorted(
            (
                (float(value), i)
                for i, own in enumerate(importance)
                for value in getattr(own, part).sort(descending=True).values[1:]
            ),
            reverse=True,
        )
        for part in ("groups", "units")
    )
    best: tuple[float, int, int] = (-1.0, 0, 0)
    for count in range(len(heads) + 1):
        room = most - least - count * of_head
        if room < 0:
            break
        filled = min(len(units), int(room // of_unit))
        total = sum(value for value, _ in (*heads[:count], *units[:filled]))
        best = max(best, (total, count, filled))
    kept = (Counter(i for _, i in part) for part in (heads[: best[1]], units[: best[2]]))
    of_heads, of_units = kept
    return tuple(LayerForm("narrow", 1 + of_heads[i], 1 + of_units[i]) for i in range(len(layers)))


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

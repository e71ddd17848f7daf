"""One adapter merged into a copy of its trunk: the same answers, without the low-rank products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.families.adapted import Adapted
from models.nn.low_rank import LowRank
from models.nn.replaced import with_weights
from models.nn.transformer import Layer, Place, layers_of


@torch.no_grad()
def merged(model: Adapted, adapter: str, rank: int | None = None) -> Any:
    """Return the wrapped model with an adapter's factors added; it shares all other weights.

    Args:
        model: With the adapter.
        adapter: Its name.
        rank: Leading part that is merged; None for all.

    Raises:
        ValueError: If there is no such adapter.
    """
    if adapter not in model.config.adapters:
        raise ValueError(f"{adapter!r} is not known; one of {list(model.config.adapters)}")
    number = model.config.adapters.index(adapter)
    known: dict[str, Tensor] = dict(model.base.named_parameters())
    found: dict[str, Tensor] = {}
    for i, layer in enumerate(layers_of(model.base)):
        for place in model.config.places:
            low = model.get_submodule(f"low.{i}.{place}")
            assert isinstance(low, LowRank)
            name, part = _weight(layer, place)
            weight = found.setdefault(f"layers.{i}.{name}", known[f"layers.{i}.{name}"].clone())
            added = low.up[number, :rank].T @ low.down[number, :rank]
            weight[part] += added.view(weight[part].shape)
    return with_weights(model.base, found)


def _weight(layer: Layer, place: Place) -> tuple[str, tuple[slice, ...]]:
    """Return the parameter that has a linear map's weight, and which part of it."""
    config = layer.attention.config
    queries = config.group * config.head_dim
    keys = queries + config.head_dim
    every = slice(None)
    match place:
        case "query":
            return "attention.qkv", (every, slice(queries))
        case "key":
            return "attention.qkv", (every, slice(queries, keys))
        case "value":
            return "attention.qkv", (every, slice(keys, None))
        case "out":
            return "attention.out.weight", (every,)
    return f"ffn.{place}.weight", (every,)

"""One adapter merged into a copy of its trunk: the same answers, without the low-rank products."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from models.families.adapted import Adapted
from models.nn.low_rank import LowRank
from models.nn.transformer import Layer, Place, layers_of


@torch.no_grad()
def merged(model: Adapted, adapter: str, rank: int | None = None) -> Any:
    """Return the wrapped model with an adapter's factors added to its weights.

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
    base = deepcopy(model.base)
    for i, layer in enumerate(layers_of(base)):
        for place in model.config.places:
            low = model.get_submodule(f"low.{i}.{place}")
            assert isinstance(low, LowRank)
            weight = _weight(layer, place)
            added = low.up[number, :rank].T @ low.down[number, :rank]
            weight += added.view(weight.shape)
    return base


def _weight(layer: Layer, place: Place) -> Tensor:
    """Return the weight of a linear map of a layer: a view of what the layer keeps."""
    attention, ffn = layer.attention, layer.ffn
    config = attention.config
    queries = config.group * config.head_dim
    match place:
        case "query":
            return attention.qkv[:, :queries]
        case "key":
            return attention.qkv[:, queries : queries + config.head_dim]
        case "value":
            return attention.qkv[:, queries + config.head_dim :]
        case "out":
            return attention.out.weight
        case "up":
            return ffn.up.weight
        case "down":
            return ffn.down.weight
    assert ffn.gate is not None
    return ffn.gate.weight

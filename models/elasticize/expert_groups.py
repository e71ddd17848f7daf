"""A transformer's feed-forward units as a part that all items share and experts of the rest.

All experts in equal parts are the feed-forward part itself, so the model answers as it did. Units
are in the order of what they matter to all skills, so the first experts are the best to begin with.

Source: Zhang et al. 2022, MoEfication, arXiv 2110.01786, for experts that are groups of units;
theirs are units with like weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models import families
from models.families.experts import ExpertModel, ExpertsConfig
from models.nn.transformer import FeedForward, layers_of

_FIRST = 0.02  # between the experts that matter most and least to a skill, before any training


def ordered_units(worth: Tensor) -> Tensor:
    """Return a layer's units by what they matter to all skills, the most first, int64.

    Args:
        worth: Of each unit to each skill, in any unit, shape [skills, units].
    """
    total = (worth / worth.sum(1, keepdim=True)).sum(0)
    return total.argsort(descending=True, stable=True)


@torch.no_grad()
def with_experts_of(
    base: Any,
    family: str,
    orders: Sequence[Tensor],
    worth: Sequence[Tensor],
    shared: int,
    config: ExpertsConfig,
) -> ExpertModel:
    """Return a model whose experts are groups of another's units.

    Args:
        base: Stays as it is; its weights are copied.
        family: Its name.
        orders: Of each layer's units; the first are shared, and each expert has those that follow.
        worth: Of each layer's units to each skill, shape [skills, units]; skills begin with the
            experts that matter most to them. Empty: all shares are equal.
        shared: Units that all items run.
        config: Of the model; ``model`` is made here.

    Raises:
        ValueError: If units and experts do not fit.
    """
    whole = base.config.encoder
    if shared + config.experts * config.units != whole.ffn:
        raise ValueError(f"{shared} + {config.experts} x {config.units} units are not {whole.ffn}")
    own = replace(base.config, encoder=replace(whole, ffn=shared))
    made = ExpertModel(base.name, replace(config, family=family, model=families.as_json(own)))
    state = {key: one for key, one in base.state_dict().items() if ".ffn." not in key}
    made.base.load_state_dict(state, strict=False)
    for i, (layer, small) in enumerate(zip(layers_of(base), layers_of(made.base), strict=True)):
        part = made.parts[i]
        groups = orders[i][shared:].view(config.experts, config.units)
        _copy(layer.ffn, small.ffn, orders[i][:shared], is_first=True)
        for number, units in enumerate(groups):
            expert = part.each[f"{number}"]
            assert isinstance(expert, FeedForward)
            _copy(layer.ffn, expert, units, is_first=False)
        if worth:
            of_experts = worth[i][:, groups].sum(2)
            ranks = of_experts.argsort(1).argsort(1) / config.experts
            part.bias[:-1] = _FIRST * ranks
            part.bias[-1] = _FIRST * ranks.mean(0)
    return made


def _copy(whole: FeedForward, part: FeedForward, units: Tensor, is_first: bool) -> None:
    """Copy some units; the output's bias is the first part's alone."""
    for name in ("up", "gate"):
        own, found = getattr(whole, name), getattr(part, name)
        if own is not None:
            found.weight.copy_(own.weight[units])
            if own.bias is not None:
                found.bias.copy_(own.bias[units])
    part.down.weight.copy_(whole.down.weight[:, units])
    if whole.has_bias:
        part.down.bias.copy_(whole.down.bias if is_first else torch.zeros_like(whole.down.bias))

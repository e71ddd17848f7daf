"""Order of heads and feed-forward units: the most important first, so that slices keep them.

Reordering changes no output at full width: it permutes sums. Afterwards the leading half of the
heads, or of the units, is the most important half.

Source: Hou et al. 2020, DynaBERT, arXiv 2004.04037, section 2.1 ("network rewiring").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.nn.transformer import Attention, FeedForward, layers_of


class Importance(NamedTuple):
    """What one layer's parts are worth, in any unit.

    Attributes:
        groups: Of each group of heads, shape [kv_heads].
        units: Of each feed-forward unit, shape [ffn].
    """

    groups: Tensor
    units: Tensor


@torch.no_grad()
def rank_units(model: Any, importance: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Reorder every layer's groups of heads and units, in place, by descending importance.

    Equals keep their order. Gradients and optimiser states are not reordered.

    Args:
        model: With its layers in order in ``layers``; changed in place.
        importance: One pair per layer, as in `Importance`.

    Raises:
        ValueError: If a number of layers, groups or units does not fit; nothing is changed then.
    """
    layers = layers_of(model)
    encoder = layers[0].attention.config
    if len(importance) != len(layers):
        raise ValueError(f"importance of {len(importance)} layers; the model has {len(layers)}")
    for i, (groups, units) in enumerate(importance):
        for what, values, size in (
            ("groups", groups, encoder.kv_heads),
            ("units", units, encoder.ffn),
        ):
            if values.shape != (size,) or values.isnan().any():
                raise ValueError(
                    f"importance of layer {i}: {what} have shape {list(values.shape)}; "
                    f"needed are {size} numbers"
                )
    for layer, (groups, units) in zip(layers, importance, strict=True):
        _reorder_heads(layer.attention, groups.argsort(descending=True, stable=True))
        _reorder_units(layer.ffn, units.argsort(descending=True, stable=True))


@torch.no_grad()
def first_order_importance(model: Any) -> list[Importance]:
    """Return by how much the loss would change, to first order, without each group or unit.

    To be called after ``loss.backward()`` at full width; sum the results of several batches. A
    head counts |dL/dm| for a factor m on its output, which is the sum of w dL/dw over the weights
    that read the head. A unit counts |sum w dL/dw| over the weights and biases that make it, plus
    the same over those that read it.

    Raises:
        ValueError: If a layer has no gradients.
    """
    return [
        Importance(_group_importance(layer.attention, i), _unit_importance(layer.ffn, i))
        for i, layer in enumerate(layers_of(model))
    ]


def _reorder_heads(attention: Attention, order: Tensor) -> None:
    attention.qkv.copy_(attention.qkv[order])
    if attention.qkv_bias is not None:
        attention.qkv_bias.copy_(attention.qkv_bias[order])
    weight = attention.out.weight
    weight.copy_(weight.view(len(weight), len(order), -1)[:, order].flatten(1))
    if attention.relative_bias is not None:
        # Such encoders have one key head per query head: a group is a head.
        attention.relative_bias.copy_(attention.relative_bias[:, order])


def _reorder_units(ffn: FeedForward, order: Tensor) -> None:
    for linear in _inputs(ffn):
        linear.weight.copy_(linear.weight[order])
        if ffn.has_bias:
            linear.bias.copy_(linear.bias[order])
    ffn.down.weight.copy_(ffn.down.weight[:, order])


def _inputs(ffn: FeedForward) -> list[nn.Linear]:
    return [ffn.up] if ffn.gate is None else [ffn.up, ffn.gate]


def _group_importance(attention: Attention, i: int) -> Tensor:
    weight = attention.out.weight
    config = attention.config
    by_head = _product(weight, i).view(-1, config.kv_heads, config.group, config.head_dim)
    return by_head.sum((0, 3)).abs().sum(1)


def _unit_importance(ffn: FeedForward, i: int) -> Tensor:
    made = torch.zeros_like(ffn.down.weight[0])
    for linear in _inputs(ffn):
        made += _product(linear.weight, i).sum(1)
        if ffn.has_bias:
            made += _product(linear.bias, i)
    return made.abs() + _product(ffn.down.weight, i).sum(0).abs()


def _product(parameter: Tensor, i: int) -> Tensor:
    if parameter.grad is None:
        raise ValueError(f"layer {i} has no gradients; the loss must reach the whole model")
    return parameter * parameter.grad

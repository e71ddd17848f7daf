"""What flows through a stack of layers: values that enter it, and sums that its layers give.

A *sum* is what a residual addition gives: before the norm in a post-norm layer. It is what a
narrower layer is fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.core import Step
from models.nn.ragged import Ragged, Value
from models.nn.transformer import Layer, layers_of


class Stack:
    """A model in three parts: what is before its layers, these, and what is after."""

    def __init__(self, model: Any, task: str | None = None) -> None:
        """Split the plan of the whole model.

        Args:
            model: An `Elastic` whose layers can be wrapped by `models.families.pruned.Pruned`.
            task: Whose answer is wanted; None for the first.

        Raises:
            ValueError: If its layers are not one run of steps.
        """
        self.layers = layers_of(model)
        self._inputs = tuple(model.inputs)
        task = task or next(iter(model.tasks))
        steps = model.plan(model.space.largest, model.inputs.plan_shapes(), [task]).steps
        first, last = (place(steps, layer) for layer in (self.layers[0], self.layers[-1]))
        if last - first != len(self.layers) - 1:
            raise ValueError(f"{model.name}: its layers are not one run of steps")
        self._before, self._after = steps[:first], steps[last + 1 :]
        self._entry, self._end = steps[first].operands[0], steps[last]

    def through(self, x: Ragged) -> Ragged:
        """Return what the last layer gives where nothing is left out."""
        for layer in self.layers:
            config = layer.attention.config
            x = layer(config.kv_heads, config.ffn, x)
        return x

    def enter(self, values: Value | Mapping[str, Value]) -> Ragged:
        """Return what enters the first layer for a batch of the model's inputs.

        Args:
            values: By input; of a model of one input, also its values alone.
        """
        given = values if isinstance(values, Mapping) else {self._inputs[0]: values}
        entered = _walk(self._before, {}, given)[self._entry.identity]
        assert isinstance(entered, Ragged)
        return entered

    def leave(self, values: Ragged) -> Tensor:
        """Return the answer for what the last layer gives."""
        answer = _walk(self._after, {self._end.identity: values}, {})[self._after[-1].identity]
        assert isinstance(answer, Tensor)
        return answer


def place(steps: Sequence[Step], layer: Layer) -> int:
    """Return the position of the step that runs a layer; ValueError if none does."""
    for i, step in enumerate(steps):
        if isinstance(step.run, partial) and step.run.func is layer:
            return i
    raise ValueError("a layer is not in the plan")


def _walk(
    steps: Sequence[Step], known: dict[bytes, Value], inputs: Mapping[str, Value]
) -> dict[bytes, Value]:
    values = dict(known)
    for step in steps:
        taken = [inputs[x] if isinstance(x, str) else values[x.identity] for x in step.takes]
        values[step.identity] = step.run(*taken)
    return values


def read_by_heads(layer: Layer, x: Ragged) -> Ragged:
    """Return what a layer's attention reads of the stream."""
    return x if layer.is_post else x.replace(layer.attention_norm(x.values))


def after_attention(layer: Layer, total: Tensor) -> Tensor:
    """Return the stream after attention from its sum, shape [tokens, hidden]."""
    normed: Tensor = layer.attention_norm(total) if layer.is_post else total
    return normed


def read_by_units(layer: Layer, h: Tensor) -> Tensor:
    """Return what a layer's feed-forward part reads of the stream."""
    read: Tensor = h if layer.is_post else layer.ffn_norm(h)
    return read


def after_ffn(layer: Layer, total: Tensor) -> Tensor:
    """Return the stream after the layer from its sum, shape [tokens, hidden]."""
    normed: Tensor = layer.ffn_norm(total) if layer.is_post else total
    return normed


@dataclass(frozen=True)
class Streams:
    """The whole model on some inputs, batch by batch.

    Attributes:
        entry: What enters the first layer.
        attention: Per layer and batch, the sum after attention, shape [tokens, hidden].
        ffn: Per layer and batch, the sum after the feed-forward part.
    """

    entry: Sequence[Ragged]
    attention: Sequence[Sequence[Tensor]]
    ffn: Sequence[Sequence[Tensor]]

    @property
    def tokens(self) -> int:
        """Of all inputs."""
        return sum(len(x.values) for x in self.entry)

    def after(self, layers: Sequence[Layer], depth: int) -> list[Ragged]:
        """Return the whole model's stream after some layers; 0: what enters the first."""
        if depth == 0:
            return list(self.entry)
        layer = layers[depth - 1]
        return [
            x.replace(after_ffn(layer, total))
            for x, total in zip(self.entry, self.ffn[depth - 1], strict=True)
        ]


@torch.no_grad()
def observe(layers: Sequence[Layer], entry: Sequence[Ragged]) -> Streams:
    """Run the whole layers and keep their sums: 2 x layers x tokens x hidden numbers."""
    attention: list[list[Tensor]] = []
    ffn: list[list[Tensor]] = []
    streams = list(entry)
    for layer in layers:
        config = layer.attention.config
        sums = [
            x.values
            + layer.attention.out(layer.attention(read_by_heads(layer, x), config.kv_heads))
            for x in streams
        ]
        attention.append(sums)
        middle = [after_attention(layer, total) for total in sums]
        totals = [
            h + layer.ffn.down(layer.ffn(read_by_units(layer, h), config.ffn)) for h in middle
        ]
        ffn.append(totals)
        streams = [
            x.replace(after_ffn(layer, total)) for x, total in zip(streams, totals, strict=True)
        ]
    return Streams(entry, attention, ffn)

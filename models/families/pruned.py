"""A transformer with layers that are narrower or linear: one subnet is a form of every layer.

It wraps a model of another family, whose layers are `models.nn.transformer.Layer`. Heads and units
lie most important first, so a narrower layer reads leading slices of the layer's weights; only its
two output maps are its own, fitted to what the whole layer gave. A linear layer is one map.

Axes: ``keep`` (share of the layers' multiply-accumulates; each value is one form per layer, and 0
the static exit, which has no layer), those of the wrapped model that size its answer, and, where
they are offered, ``bits``.

Sources: Khaki and Plataniotis 2024, OPTIN, arXiv 2403.17921, for pruning in one shot without a
gradient; He, Zhang and Sun 2017, Channel Pruning, arXiv 1707.06168, for fitting what is left by
least squares to what the whole layer gave.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from torch import nn

from models.bits import axis_of, bits_of, check_bits, step_of, variant_of
from models.core import Cost, Plan, Shapes, Step
from models.families import Family
from models.nn.layers import SlimLinear
from models.nn.linear_layer import LinearLayer
from models.nn.ragged import Ragged
from models.nn.static import Static
from models.nn.transformer import Layer, layers_of
from models.space import Axis, Space, Subnet, Value
from models.tasks import wanted_tasks
from models.wrapped import Wrapped, layer_call


@dataclass(frozen=True)
class LayerForm:
    """What is left of a layer.

    Attributes:
        kind: ``whole``: the layer as it was. ``narrow``: its first heads and units, with output
            maps of its own. ``linear``: one map per token.
        groups: Groups of heads; ``narrow`` only.
        units: Feed-forward units; ``narrow`` only.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    kind: Literal["whole", "narrow", "linear"]
    groups: int = 0
    units: int = 0


@dataclass(frozen=True)
class PrunedConfig:
    """Everything that fixes the architecture; kept in the checkpoint's manifest.

    Attributes:
        family: Of the wrapped model.
        model: Configuration of the wrapped model; only the size of its answer may be elastic.
        keep: Value on the axis of each cut, ascending, the last 1: the whole model. A first value
            of 0 is the static exit (`models.nn.static`).
        forms: Per layer, the forms it has; equal ones differ in their weights.
        cuts: Per value of ``keep`` but 0, the number of each layer's form.
        bits: Of the layers' linear weights: 32, or 8 and 32.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    family: str
    model: dict[str, Any]
    keep: tuple[float, ...]
    forms: tuple[tuple[LayerForm, ...], ...]
    cuts: tuple[tuple[int, ...], ...]
    bits: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        keep = list(self.keep)
        if keep != sorted(set(keep)) or not keep or keep[0] < 0 or keep[-1] != 1:
            raise ValueError(f"keep={keep} must be 0 or more, ascend and end at 1")
        if self.family == "pruned":
            raise ValueError("family='pruned' must be the family of a model that is not pruned")
        check_bits(self.bits)
        if len(self.cuts) != len(keep) - self.has_static:
            raise ValueError(f"cuts has {len(self.cuts)} entries, keep {len(keep)}; 0 has none")
        for cut in self.cuts:
            if len(cut) != len(self.forms) or not all(
                0 <= number < len(forms) for number, forms in zip(cut, self.forms, strict=True)
            ):
                raise ValueError(f"cuts: {list(cut)} must name a form of each layer")
        if any(form.kind != "whole" for form in self.cut(keep[-1])):
            raise ValueError(f"cuts: the last, {list(self.cuts[-1])}, must be of whole layers")

    @property
    def has_static(self) -> bool:
        """Whether one value of ``keep`` is the static exit."""
        return self.keep[0] == 0

    def numbers(self, keep: float) -> tuple[int, ...]:
        """Return the number of each layer's form at a value of ``keep`` above 0."""
        return self.cuts[self.keep.index(keep) - self.has_static]

    def cut(self, keep: float) -> list[LayerForm]:
        """Return the form of each layer at a value of ``keep`` above 0."""
        numbers = self.numbers(keep)
        return [forms[number] for number, forms in zip(numbers, self.forms, strict=True)]


class Pruned(Wrapped):
    """The family as an `Elastic` model; see `models.elastic.Elastic` for the contract.

    The wrapped model keeps its layers in order in ``layers``, runs each as a step of its own, and
    says with ``tokens`` how many tokens they see.
    """

    config: PrunedConfig

    def __init__(self, name: str, config: PrunedConfig) -> None:
        super().__init__(name, config)
        layers = layers_of(self.base)
        if len(layers) != len(config.forms):
            raise ValueError(
                f"forms are of {len(config.forms)} layers, the model has {len(layers)}"
            )
        for axis in self.base.space.axes:
            if axis.kind != "output" and len(axis.values) > 1:
                raise ValueError(f"model: axis {axis.name!r} must have one value to be wrapped")
        self.forms = nn.ModuleList(
            nn.ModuleList(_weights(form, layer) for form in forms)
            for forms, layer in zip(config.forms, layers, strict=True)
        )
        self.static = self._make_static() if config.has_static else None
        self.bits = config.bits[-1]

    def _make_static(self) -> Static:
        """Return a static exit to be fitted; ValueError if the wrapped model can have none."""
        if not hasattr(self.base, "make_static"):
            raise ValueError(f"keep=0: a model of family {self.config.family!r} has no static exit")
        made: Static = self.base.make_static()
        return made

    def variant(self, choices: Mapping[str, Value]) -> Pruned:
        """Return the model with its layers' weights in other bits; all others are shared."""
        return variant_of(self, choices)

    @cached_property
    def space(self) -> Space:
        """Keep, and what sizes the answer. Bits where they are offered."""
        config = self.config
        outputs = [axis for axis in self.base.space.axes if axis.kind == "output"]
        return Space((*axis_of(config.bits), Axis("keep", config.keep), *outputs))

    def vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return what sizes the answer: all cuts are fitted to one whole; see `models.vectors`."""
        return {axis.name: subnet[axis.name] for axis in self.space.axes if axis.kind == "output"}

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the wrapped model's plan with other layers; see `models.elastic.Elastic`."""
        subnet = self.space.check(subnet)
        if self.static is not None and not subnet["keep"]:
            static = self.static.answer("text", int(subnet["dim"]), self.base.tokens(shapes))
            return Plan(dict.fromkeys(wanted_tasks(self.tasks, tasks), static))
        whole = self.base.space.largest
        plan: Plan = self.base.plan(
            whole | {axis: subnet[axis] for axis in subnet if axis in whole}, shapes, tasks
        )
        length, bits = self.base.tokens(shapes), bits_of(subnet)
        place = {id(layer): i for i, layer in enumerate(layers_of(self.base))}
        numbers = self.config.numbers(float(subnet["keep"]))

        def own(step: Step, takes: tuple[Step | str, ...]) -> Step:
            call = layer_call(step)
            if call is None:
                return replace(step, takes=takes)
            i = place[id(call.layer)]
            return self._step(i, numbers[i], call.layer, takes, length, bits)

        return plan.rewritten(own)

    def through(self, keep: float, hidden: Ragged) -> Ragged:
        """Return what leaves the layers of a cut, for training.

        Args:
            keep: Of the cut, above 0.
            hidden: What enters the first layer.
        """
        for i, (layer, number) in enumerate(
            zip(layers_of(self.base), self.config.numbers(keep), strict=True)
        ):
            hidden = self._layer(i, number, layer)(hidden)
        return hidden

    def _layer(self, i: int, number: int, layer: Layer) -> partial[Ragged]:
        """Return a layer in one of its forms."""
        forms = self.forms[i]
        assert isinstance(forms, nn.ModuleList)
        own = forms[number]
        if isinstance(own, LinearLayer):
            return partial(own, layer)
        groups, units = _widths(self.config.forms[i][number], layer)
        maps: dict[str, Any] = dict(own.named_children())
        return partial(layer, groups, units, **maps)

    def _step(
        self,
        i: int,
        number: int,
        layer: Layer,
        takes: tuple[Step | str, ...],
        length: int,
        bits: int,
    ) -> Step:
        """Return the step of a layer in one of its forms."""
        run = self._layer(i, number, layer)
        if isinstance(own := run.func, LinearLayer):
            cost = Cost(own.macs(length), own.bytes(layer, bits))
        else:
            groups, units = run.args
            held = layer.bytes(groups, units, bits, **run.keywords)
            cost = Cost(layer.macs(groups, units, length), held)
        return step_of(bits, self.bits, ("layer", i, number), run, takes, cost)


def _widths(form: LayerForm, layer: Layer) -> tuple[int, int]:
    config = layer.attention.config
    return (config.kv_heads, config.ffn) if form.kind == "whole" else (form.groups, form.units)


def _weights(form: LayerForm, layer: Layer) -> nn.Module:
    """Return the weights that a form has of its own; ValueError if the layer is too narrow."""
    config = layer.attention.config
    if form.kind == "linear":
        return LinearLayer(config)
    if form.kind == "whole":
        return nn.Module()
    for name, most in (("groups", config.kv_heads), ("units", config.ffn)):
        if not 1 <= getattr(form, name) <= most:
            raise ValueError(f"forms: {name}={getattr(form, name)} must be 1 to {most}")
    inner = form.groups * config.group * config.head_dim
    return nn.ModuleDict(
        {"out": SlimLinear(inner, config.hidden), "down": SlimLinear(form.units, config.hidden)}
    )


FAMILY = Family(PrunedConfig, Pruned)

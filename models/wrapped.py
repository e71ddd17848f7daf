"""What families have in common that wrap a model of another family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import TypeAdapter
from torch import nn

from models import families
from models.core import Plan, Shapes, Step
from models.inputs import Inputs, Slot
from models.inputs.adapter import AdapterInput
from models.nn.transformer import Layer
from models.space import Axis, Subnet, Value
from models.tasks import Task
from models.variants import load_axes


class LayerCall(NamedTuple):
    """What a step does that runs a layer.

    Attributes:
        layer: Runs.
        groups: As for `Layer`.
        units: Likewise.
        maps: Likewise.
    """

    layer: Layer
    groups: int
    units: int
    maps: Mapping[str, Any]


def layer_call(step: Step) -> LayerCall | None:
    """Return what a step of a transformer does that runs a layer; None for any other."""
    run = step.run
    if not isinstance(run, partial) or not isinstance(run.func, Layer):
        return None
    groups, units = run.args
    return LayerCall(run.func, groups, units, run.keywords)


class Wrapped(nn.Module):
    """Part of an `Elastic` model: what it answers as the model that it wraps does."""

    base: Any  # an `Elastic` that is an nn.Module; Python cannot spell the intersection

    def __init__(self, name: str, config: Any) -> None:
        """Build the wrapped model.

        Args:
            name: Of both models.
            config: Names the wrapped model's ``family``, and has its configuration as ``model``.

        Raises:
            ValueError: If the family or its configuration is none.
        """
        super().__init__()
        self.name = name
        self.config = config
        family = families.get(config.family)
        own: Any = TypeAdapter(family.config).validate_python(config.model)
        self.base = family.build(name, own)

    def check_one_set_of_weights(self) -> None:
        """Refuse a wrapped model with load axes; ValueError that names one."""
        if axes := load_axes(self.base.space):
            raise ValueError(f"model: axis {axes[0].name!r} is of weights")

    @property
    def assets(self) -> Sequence[str]:
        """Files that the wrapped model reads besides its weights."""
        found: Sequence[str] = getattr(self.base, "assets", ())
        return found

    def attach(self, folder: Path) -> None:
        """Let the wrapped model read its files; ValueError if they do not fit."""
        self.base.attach(folder)

    @property
    def inputs(self) -> Inputs:
        """Those of the wrapped model."""
        found: Inputs = self.base.inputs
        return found

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Those of the wrapped model."""
        found: Mapping[str, Task] = self.base.tasks
        return found

    def tokens(self, shapes: Shapes) -> int:
        """Return the tokens that the first layers see; ValueError for shapes of other inputs."""
        found: int = self.base.tokens(shapes)
        return found

    def of_base(self, subnet: Mapping[str, Value]) -> Subnet:
        """Return a subnet's choices on the wrapped model's axes."""
        return Subnet((axis, value) for axis, value in subnet.items() if axis in self._base_axes)

    def base_vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return what tells the wrapped model's vectors apart; see `models.vectors`."""
        own = self.of_base(subnet)
        found: Mapping[str, Value] = getattr(self.base, "vector_space", dict)(own)
        return found

    @cached_property
    def _base_axes(self) -> frozenset[str]:
        return frozenset(axis.name for axis in self.base.space.axes)


class NamingModel(Wrapped):
    """A model of whose parts an item may name one, by an optional input beside the wrapped model's.

    Attributes:
        named: Of the input.
    """

    named: ClassVar[str]

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """What an item may name."""

    @property
    def inputs(self) -> Inputs:
        """Those of the wrapped model, and perhaps a name."""
        slot = Slot(AdapterInput(tuple(self.names)), required=False)
        return Inputs({**self.base.inputs, self.named: slot})

    @property
    def inputs_axis(self) -> Axis:
        """Whether a name is given."""
        alone = "+".join(self.base.inputs)
        return Axis("inputs", (alone, f"{alone}+{self.named}"), kind="given")

    def is_named(self, subnet: Mapping[str, Value]) -> bool:
        """Return whether a subnet is of items with a name."""
        return str(subnet["inputs"]).split("+")[-1] == self.named

    def tokens(self, shapes: Shapes) -> int:
        """Return the tokens that the layers see; ValueError if the shapes are not the model's."""
        return super().tokens(self._of_base(shapes))

    def base_plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None) -> Plan:
        """Return the wrapped model's plan; ValueError if a name is in one of both alone."""
        if self.is_named(subnet) != (self.named in shapes):
            raise ValueError(f"inputs={subnet['inputs']!r} are not those of shapes={dict(shapes)}")
        found: Plan = self.base.plan(self.of_base(subnet), self._of_base(shapes), tasks)
        return found

    def _of_base(self, shapes: Shapes) -> Shapes:
        return {name: shape for name, shape in shapes.items() if name != self.named}

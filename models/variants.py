"""Models whose weights depend on a choice that is made when they are built, such as their bits.

A model with axes of ``when="load"`` is loaded with the last value of each. `variant` builds the
weights for others. Keys of steps name the load choices that their weights depend on, so variants
share the values of all other steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import NoReturn, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

from models.elastic import Elastic
from models.space import Axis, Space, Value

Choices: TypeAlias = tuple[Value, ...]
"""A value on each load axis, in the order of the space."""


class NotBuiltError(RuntimeError):
    """A plan was run on a model that does not have the weights that its subnet names."""


def not_built(*_: object) -> NoReturn:
    """Run in place of a step whose weights are another variant's."""
    raise NotBuiltError("these weights are not built; plan with the variant that has them")


@runtime_checkable
class Variable(Protocol):
    """A model with load axes.

    Its own plans for choices that it does not have cost what the variant's do; their steps raise
    `NotBuiltError` when they are run.
    """

    def variant(self, choices: Mapping[str, Value]) -> Elastic:
        """Return the model with the weights of other choices on its load axes.

        What the two share should be the same tensors. Takes a while; called from any thread.
        """


def load_axes(space: Space) -> tuple[Axis, ...]:
    """Return the axes that name weights to be built."""
    return tuple([axis for axis in space.axes if axis.when == "load"])


def loaded(space: Space) -> dict[str, Value]:
    """Return the values on the load axes whose weights a model is loaded with."""
    return {axis.name: axis.values[-1] for axis in load_axes(space)}


def choices_of(space: Space, subnet: Mapping[str, Value]) -> Choices:
    """Return a subnet's values on the load axes."""
    return tuple(subnet[axis.name] for axis in load_axes(space))


def all_choices(space: Space) -> list[Choices]:
    """Return every combination of values on the load axes, those loaded at first last."""
    return list(product(*(axis.values for axis in load_axes(space))))


def build(model: Elastic, choices: Choices) -> Elastic:
    """Build a variant; the model itself for the choices that it was loaded with.

    Raises:
        TypeError: If the model has load axes and builds no variants.
    """
    given = loaded(model.space)
    if choices == tuple(given.values()):
        return model
    if not isinstance(model, Variable):
        raise TypeError(f"{model.name} has load axes but no method `variant`")
    return model.variant(dict(zip(given, choices, strict=True)))


def added_bytes(model: nn.Module, base: nn.Module) -> int:
    """Return the bytes of a model's weights that are not a base model's."""
    known = {tensor.untyped_storage().data_ptr() for tensor in _tensors(base)}
    own = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(model)
    }
    return sum(size for where, size in own.items() if where not in known)


def exact_dtype(model: nn.Module) -> torch.dtype:
    """Return the smallest floating-point type that holds every weight exactly, half or single."""
    floats = [own for own in model.state_dict().values() if own.is_floating_point()]
    halves = all(torch.equal(own, own.half().to(own.dtype)) for own in floats)
    return torch.float16 if halves else torch.float32


def _tensors(model: nn.Module) -> list[nn.Parameter]:
    return [*model.parameters(), *model.buffers()]  # type: ignore[list-item]

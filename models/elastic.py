"""What every elastic model offers: inputs, tasks, a space of subnets, and a plan for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from models.core import Plan, Shapes
from models.inputs import Inputs
from models.space import Axis, Space, Subnet
from models.tasks import Task


class Elastic(Protocol):
    """A model with many subnets in one set of weights.

    Immutable once loaded: the subnet is an argument of every call, so that overlapping requests
    cannot disturb one another. Clients ask for its name; its space has the axes of every task. A
    model with axes of ``when="load"`` has a method ``variant`` besides (`models.variants`), and one
    whose different subnets give vectors that may be compared ``vector_space`` (`models.vectors`).
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def inputs(self) -> Inputs: ...  # noqa: D102

    @property
    def tasks(self) -> Mapping[str, Task]: ...  # noqa: D102

    @property
    def space(self) -> Space: ...  # noqa: D102

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the plan that answers ``tasks`` (None: all).

        What the steps run does not depend on lengths, only what they cost: a polynomial of degree
        two in the length of each input.

        Args:
            subnet: A value for every axis without a task and for the axes of ``tasks``.
            shapes: Of the inputs that are there.
            tasks: Names out of ``self.tasks``.

        Raises:
            ValueError: If the subnet, a shape or a task is not one of the model's.
        """


def nesting_axis(model: Elastic, shapes: Shapes) -> Axis | None:
    """Return the axis whose smaller values are ways out of one chain of steps; None if none is.

    A plan with a smaller value runs some of the steps of the plan with a larger one, and an answer
    of its own: the depth of a multi-exit model, for example. So an answer can be deepened.
    """
    space = model.space
    whole = _inner(model.plan(space.largest, shapes))
    for axis in space.axes:
        if axis.kind != "compute" or axis.when != "call" or axis.task is not None:
            continue
        for value in axis.values[:-1]:
            subnet = space.largest | {axis.name: value}
            if space.valid(subnet) and _inner(model.plan(subnet, shapes)) < whole:
                return axis
    return None


def _inner(plan: Plan) -> frozenset[bytes]:
    return plan.identities - {step.identity for step in plan.answers.values()}

"""The types every elastic model is described by: axes, subnets, costs and plans.

An elastic model has *axes*. A *subnet* picks one value on each axis. A subnet and an input shape
make a *plan*: a tree of *steps*, each with a key that says exactly which function it is. Whatever
the server does (price a subnet, batch requests, share an encoder, stop early) is read off plans, so
no family ever mentions batching, budgets, back ends or HTTP. No tensor library is imported here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from random import Random

    from models.tasks import Task

Value: TypeAlias = int | float | str
Shape: TypeAlias = tuple[int, ...]
KeyPath: TypeAlias = tuple[Hashable, ...]

_MAX_SAMPLE_TRIES = 10_000
_MAX_PARTS = 256  # sets of tasks whose spaces are kept


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that can be chosen about a model.

    Attributes:
        name: Dotted, unique within the model, for example ``encoder.stage1``.
        values: Allowed values, cheapest first.
        kind: What a choice changes. ``compute``: FLOPs. ``output``: bytes given back.
            ``preference``: neither, only which answer is best. ``given``: set by the request.
        when: ``call``: any request may choose. ``load``: other weights must be built first.
        task: The only task whose answer depends on this axis, or None for all tasks. A request
            that does not ask for the task neither chooses nor pays for it.
    """

    name: str
    values: tuple[Value, ...]
    kind: Literal["compute", "output", "preference", "given"] = "compute"
    when: Literal["call", "load"] = "call"
    task: str | None = None

    def __post_init__(self) -> None:
        """Refuse an axis without values or with a value twice."""
        if not self.values or len(set(self.values)) != len(self.values):
            raise ValueError(f"axis {self.name!r} must have distinct values: {list(self.values)}")

    def index(self, value: object) -> int:
        """Return the position of a value, 0 = cheapest; ValueError if there is no such value."""
        for i, allowed in enumerate(self.values):
            # bool is an int and 1 == 1.0; only the second of these is meant to pass.
            if value == allowed and not isinstance(value, bool):
                return i
        raise ValueError(f"{self.name}={value!r} is not allowed; one of {list(self.values)}")


class Subnet(Mapping[str, Value]):
    """One value per axis: immutable, hashable, printed as ``encoder.stage1=0.5 depth=4``."""

    __slots__ = ("_choices", "_hash")

    def __init__(self, choices: Mapping[str, Value] | Iterable[tuple[str, Value]]) -> None:
        self._choices: dict[str, Value] = dict(choices)
        self._hash = hash(frozenset(self._choices.items()))

    def __getitem__(self, axis: str) -> Value:
        return self._choices[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self._choices)

    def __len__(self) -> int:
        return len(self._choices)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subnet) and self._choices == other._choices

    def __or__(self, other: Mapping[str, Value]) -> Subnet:
        """Return a copy with the other's choices added or replaced."""
        return Subnet({**self._choices, **other})

    def __repr__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._choices.items())


def _everything(_: Subnet) -> bool:
    return True


@dataclass(frozen=True)
class Space:
    """All subnets of a model: the product of its axes, less what ``valid`` refuses.

    Raises:
        ValueError: If two axes share a name or the largest or smallest subnet is not valid.
    """

    axes: tuple[Axis, ...]
    valid: Callable[[Subnet], bool] = _everything

    def __post_init__(self) -> None:
        """Check what every later call relies on."""
        if len(self._by_name) != len(self.axes):
            raise ValueError(f"axis names repeat: {[axis.name for axis in self.axes]}")
        for name, subnet in (("smallest", self.smallest), ("largest", self.largest)):
            if not self.valid(subnet):
                raise ValueError(f"the {name} subnet is not valid: {subnet}")

    @cached_property
    def _by_name(self) -> dict[str, Axis]:
        return {axis.name: axis for axis in self.axes}

    @cached_property
    def _parts(self) -> dict[frozenset[str | None], Space]:
        return {}

    @cached_property
    def smallest(self) -> Subnet:
        """The cheapest value on every axis."""
        return Subnet((axis.name, axis.values[0]) for axis in self.axes)

    @cached_property
    def largest(self) -> Subnet:
        """The last value on every axis: the supernet itself."""
        return Subnet((axis.name, axis.values[-1]) for axis in self.axes)

    def __iter__(self) -> Iterator[Subnet]:
        """Yield every valid subnet, the last axis changing fastest."""
        names = [axis.name for axis in self.axes]
        for values in itertools.product(*(axis.values for axis in self.axes)):
            subnet = Subnet(zip(names, values, strict=True))
            if self.valid(subnet):
                yield subnet

    def select(self, tasks: Collection[str | None]) -> Space:
        """Return the space of the axes that belong to ``tasks`` (None: to no single task)."""
        key = frozenset(tasks)
        if self.valid is not _everything:
            if all(axis.task in key for axis in self.axes):
                return self
            raise ValueError("a space with a validity rule cannot be split by task")
        if key not in self._parts:
            if len(self._parts) >= _MAX_PARTS:
                self._parts.clear()
            self._parts[key] = Space(tuple(axis for axis in self.axes if axis.task in key))
        return self._parts[key]

    def check(self, choices: Mapping[str, object]) -> Subnet:
        """Return the choices as a subnet, in the axes' order and spelling.

        Raises:
            ValueError: If an axis is missing or unknown, or a value or the whole is not allowed.
        """
        if unknown := sorted(choices.keys() - self._by_name.keys()):
            raise ValueError(f"unknown axis {unknown[0]!r}; one of {list(self._by_name)}")
        if missing := [name for name in self._by_name if name not in choices]:
            raise ValueError(f"axis {missing[0]!r} has no value")
        subnet = Subnet((a.name, a.values[a.index(choices[a.name])]) for a in self.axes)
        if not self.valid(subnet):
            raise ValueError(f"these values do not go together: {subnet}")
        return subnet

    def sample(self, rng: Random) -> Subnet:
        """Draw a valid subnet, uniformly; ValueError if 10,000 draws met none."""
        for _ in range(_MAX_SAMPLE_TRIES):
            subnet = Subnet((axis.name, rng.choice(axis.values)) for axis in self.axes)
            if self.valid(subnet):
                return subnet
        raise ValueError(f"no valid subnet in {_MAX_SAMPLE_TRIES} draws; is the space empty?")

    def neighbours(self, subnet: Subnet) -> Iterator[Subnet]:
        """Yield the valid subnets one position away on one axis."""
        for axis in self.axes:
            position = axis.index(subnet[axis.name])
            for near in (position - 1, position + 1):
                if 0 <= near < len(axis.values):
                    other = subnet | {axis.name: axis.values[near]}
                    if self.valid(other):
                        yield other

    def encode(self, subnet: Subnet) -> tuple[float, ...]:
        """Return each axis's position, 0 (cheapest) .. 1, for predictors."""
        return tuple(
            axis.index(subnet[axis.name]) / max(1, len(axis.values) - 1) for axis in self.axes
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step costs for one input. Milliseconds never follow from this; they are measured.

    Attributes:
        macs: Multiply-accumulates of convolutions, linear layers and attention products; not
            element-wise work, norms and pooling. One MAC is two FLOPs.
        weight_bytes: Bytes of weights read, once per batch.
        output_bytes: Bytes given back to the client.
    """

    macs: int = 0
    weight_bytes: int = 0
    output_bytes: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x MACs."""
        return 2 * self.macs

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.weight_bytes + other.weight_bytes,
            self.output_bytes + other.output_bytes,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One function of a plan.

    Attributes:
        key: Says which function of its model this is, the chosen widths included. Two steps with
            the same path of keys are one kernel call; with the same inputs, one computation.
        run: Batched function of the values named in ``takes``; a slice of the weights is bound in.
        cost: For one input of the plan's shape.
        after: The step this one follows, None at the root. It sees what its ancestors emitted.
        takes: Names of values: inputs of the request, or emitted by an ancestor.
        emits: Name of the value returned. A step that emits a task's name answers the task.
        raw: Of a step that emits unit vectors, the same function without the last division.
        timed_as: Key of the step whose time this one's is; None for its own.
        path: The keys from the root down to this step.
    """

    key: Hashable
    run: Callable[..., Any]
    cost: Cost
    after: Step | None
    takes: tuple[str, ...]
    emits: str
    raw: Callable[..., Any] | None = None
    timed_as: Hashable | None = None
    path: KeyPath = field(init=False)

    def __post_init__(self) -> None:
        """Extend the parent's path."""
        object.__setattr__(self, "path", (*(self.after.path if self.after else ()), self.key))


Plan: TypeAlias = tuple[Step, ...]


def plan_cost(plan: Iterable[Step]) -> Cost:
    """Return the summed cost of a plan's steps."""
    return sum((step.cost for step in plan), Cost())


def merge(plans: Iterable[Plan]) -> dict[KeyPath, Step]:
    """Return the steps of several plans of one model, each path once, parents before children."""
    return {step.path: step for plan in plans for step in plan}


def rest_after(plan: Plan, path: KeyPath) -> Plan:
    """Return the steps still to run once those down to ``path`` have; ValueError if not on it."""
    if path and path not in {step.path for step in plan}:
        raise ValueError(f"the plan does not pass {path}")
    return tuple(step for step in plan if step.path != path[: len(step.path)])


class Elastic(Protocol):
    """A model with many subnets in one set of weights.

    Immutable once loaded: the subnet is an argument of every call, so that overlapping requests
    cannot disturb one another. Clients ask for its name; its space has the axes of every task.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def tasks(self) -> Mapping[str, Task]: ...  # noqa: D102

    @property
    def space(self) -> Space: ...  # noqa: D102

    def plan(self, subnet: Subnet, shape: Shape, tasks: Collection[str] | None = None) -> Plan:
        """Return the steps that answer ``tasks`` (None: all), parents before children.

        Args:
            subnet: A value for every axis without a task and for the axes of ``tasks``.
            shape: Shape of one input, without the batch.
            tasks: Names out of ``self.tasks``.

        Raises:
            ValueError: If the subnet, the shape or a task is not one of the model's.
        """


def with_raw(plan: Plan) -> Plan:
    """Return a plan whose vectors keep the length that they had before they became unit vectors.

    Steps that emit no unit vectors stay as they are.
    """
    return tuple(
        step
        if step.raw is None
        else replace(step, key=(step.key, "raw"), run=step.raw, raw=None, timed_as=step.key)
        for step in plan
    )

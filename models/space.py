"""What can be chosen about an elastic model: axes, and subnets that pick a value on each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from random import Random

Value: TypeAlias = int | float | str

_MAX_SAMPLE_TRIES = 10_000
_MAX_PARTS = 256  # sets of tasks whose spaces are kept


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that can be chosen about a model.

    Attributes:
        name: Dotted, unique within the model, for example ``encoder.stage1``.
        values: Allowed values, cheapest first.
        kind: What a choice changes. ``compute``: FLOPs. ``output``: the size of the answer.
            ``given``: nothing is chosen; the value says which inputs the item has, their names in
            the model's order joined by ``+``.
        when: ``call``: any request may choose. ``load``: other weights must be built first, by
            `Elastic.variant`.
        task: The only task whose answer depends on this axis, or None for all tasks. A request
            that does not ask for the task neither chooses nor pays for it.
    """

    name: str
    values: tuple[Value, ...]
    kind: Literal["compute", "output", "given"] = "compute"
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
    """All subnets of a model: the product of its axes, less what ``valid`` refuses; or a list.

    Attributes:
        axes: What can be chosen.
        valid: Rule that every subnet keeps.
        listed: The only subnets, where weights or statistics are kept for some of them; None for
            all that keep the rule.

    Raises:
        ValueError: If two axes share a name or the largest or smallest subnet is not valid.
    """

    axes: tuple[Axis, ...]
    valid: Callable[[Subnet], bool] = _everything
    listed: tuple[Subnet, ...] | None = None

    def __post_init__(self) -> None:
        """Check what every later call relies on."""
        if len(self._by_name) != len(self.axes):
            raise ValueError(f"axis names repeat: {[axis.name for axis in self.axes]}")
        for name, subnet in (("smallest", self.smallest), ("largest", self.largest)):
            if not self.has(subnet):
                raise ValueError(f"the {name} subnet is not valid: {subnet}")

    @cached_property
    def _by_name(self) -> dict[str, Axis]:
        return {axis.name: axis for axis in self.axes}

    @cached_property
    def _listed(self) -> frozenset[Subnet]:
        return frozenset(self.listed or ())

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

    @property
    def is_product(self) -> bool:
        """Whether all combinations of values are subnets."""
        return self.valid is _everything and self.listed is None

    def has(self, subnet: Subnet) -> bool:
        """Return whether a subnet with a value on every axis is one of the model's."""
        return self.valid(subnet) and (self.listed is None or subnet in self._listed)

    def __iter__(self) -> Iterator[Subnet]:
        """Yield every valid subnet, of a product the last axis changing fastest."""
        if self.listed is not None:
            yield from self.listed
            return
        names = [axis.name for axis in self.axes]
        for values in itertools.product(*(axis.values for axis in self.axes)):
            subnet = Subnet(zip(names, values, strict=True))
            if self.valid(subnet):
                yield subnet

    def select(self, tasks: Collection[str | None]) -> Space:
        """Return the space of the axes that belong to ``tasks`` (None: to no single task)."""
        key = frozenset(tasks)
        if not self.is_product:
            own = [axis.task in key for axis in self.axes]
            if all(own):
                return self
            if any(own):
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
        if not self.has(subnet):
            raise ValueError(f"these values do not go together: {subnet}")
        return subnet

    def sample(self, rng: Random) -> Subnet:
        """Draw a valid subnet, uniformly; ValueError if 10,000 draws met none."""
        if self.listed is not None:
            return rng.choice(self.listed)
        for _ in range(_MAX_SAMPLE_TRIES):
            subnet = Subnet((axis.name, rng.choice(axis.values)) for axis in self.axes)
            if self.valid(subnet):
                return subnet
        raise ValueError(f"no valid subnet in {_MAX_SAMPLE_TRIES} draws; is the space empty?")


def check_ascending(name: str, values: Sequence[float], last: float) -> None:
    """Refuse values that do not ascend from above 0 to a last one; ValueError naming them."""
    told = list(values)
    if not told or told != sorted(set(told)) or told[0] <= 0 or told[-1] != last:
        raise ValueError(f"{name}={told} must be positive, ascend and end at {last}")

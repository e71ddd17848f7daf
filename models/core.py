"""The types every elastic model is described by: costs, steps and plans.

An elastic model has *axes*. A *subnet* picks one value on each axis. A subnet and the shapes of an
item's inputs make a *plan*: a dataflow graph of *steps*. A step names its function and the values
it takes, each an input or an earlier step. From these follows its *identity* (value numbering).
Equal identity is one kernel call; equal identity and equal inputs is one computation. Whatever the
server does (price a subnet, batch requests, share an encoder, deepen an answer) is read off plans,
so no family mentions batches, budgets, back ends or HTTP. No tensor library is imported here.

Source: Alpern, Wegman and Zadeck 1988, Detecting Equality of Variables in Programs, POPL, for value
numbering.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, TypeAlias

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]
"""Of the inputs of an item that are there, by name, without the batch."""
EXACT = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step costs for one item. Milliseconds never follow from this; they are measured.

    Attributes:
        macs: Multiply-accumulates of convolutions, linear layers and attention products; not
            element-wise work, norms and pooling. One MAC is two FLOPs.
        bytes: Of the weights that it computes with, in the bits that they have in memory; the same
            for any number of items.
    """

    macs: int = 0
    bytes: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x MACs."""
        return 2 * self.macs

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One function of a plan, and the value that it gives.

    Attributes:
        key: Says which function of its model this is, the chosen widths included: texts, numbers
            and tuples of them, since two keys are equal if their ``repr`` is.
        run: Batched function of the values it takes; a slice of the weights is bound in. It must
            not look at rows other than the one that it makes.
        takes: The values it takes: inputs by name, or steps.
        cost: For one item of the plan's shapes.
        raw: Of a step that gives unit vectors, the same function without the last division.
        timed_as: Key of the step whose time this one's is; None for its own.
        tolerance: How far two back ends may differ in a row of the value, as part of the row's
            Euclidean length, given equal operands. `EXACT` where nothing is rounded but floats;
            what rounds more coarsely may round to either side. Those of steps in a row add up.
        identity: Of the value: equal for equal keys and equal identities of what they take.
        inputs: Names of the inputs that the value depends on, sorted.
    """

    key: Hashable
    run: Callable[..., Any]
    takes: tuple[Step | str, ...]
    cost: Cost = Cost()  # immutable
    raw: Callable[..., Any] | None = None
    timed_as: Hashable | None = None
    tolerance: float = EXACT
    identity: bytes = field(init=False)
    inputs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Number the value; ValueError for a step that takes nothing."""
        if not self.takes:
            raise ValueError(f"step {self.key!r} takes nothing; an input or a step is needed")
        digest = blake2b(repr(self.key).encode(), digest_size=16)
        names: set[str] = set()
        for one in self.takes:
            if isinstance(one, Step):
                digest.update(b"s" + one.identity)
                names.update(one.inputs)
            else:
                digest.update(b"i%d:%s" % (len(one), one.encode()))
                names.add(one)
        object.__setattr__(self, "identity", digest.digest())
        object.__setattr__(self, "inputs", tuple(sorted(names)))

    @property
    def time_key(self) -> Hashable:
        """Key of the step whose time this one's is."""
        return self.key if self.timed_as is None else self.timed_as

    @property
    def operands(self) -> tuple[Step, ...]:
        """The steps it takes."""
        return tuple(one for one in self.takes if isinstance(one, Step))

    def __repr__(self) -> str:
        return f"Step({self.key!r})"


class Plan:
    """A dataflow graph that answers tasks.

    Attributes:
        answers: By task, the step that answers it.
        steps: Each value once, those that a step takes before it.
    """

    def __init__(self, answers: Mapping[str, Step]) -> None:
        """Collect what the answers need; ValueError if there are none."""
        if not answers:
            raise ValueError("a plan needs at least one answer")
        self.steps = tuple(distinct(answers.values()))
        by_identity = {step.identity: step for step in self.steps}
        self.answers = {task: by_identity[step.identity] for task, step in answers.items()}

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def cost(self) -> Cost:
        """Of one item, with nothing shared or known."""
        return plan_cost(self.steps)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that the answers depend on, sorted."""
        return tuple(sorted({name for step in self.answers.values() for name in step.inputs}))

    @cached_property
    def identities(self) -> frozenset[bytes]:
        """Of all values."""
        return frozenset(step.identity for step in self.steps)

    @cached_property
    def tasks_at(self) -> Mapping[bytes, tuple[str, ...]]:
        """By identity of each answering step, the tasks that it answers."""
        found: dict[bytes, tuple[str, ...]] = {}
        for task, step in self.answers.items():
            found[step.identity] = (*found.get(step.identity, ()), task)
        return found

    @cached_property
    def joints(self) -> tuple[Step, ...]:
        """Inner values that meet other inputs in a later step, such as an encoded context.

        Items that share some of their inputs share these, so they are worth keeping. What takes no
        products, such as the embeddings of tokens, is as soon computed as kept.
        """
        met = {
            operand.identity
            for step in self.steps
            for operand in step.operands
            if operand.inputs != step.inputs
        }
        found = (step for step in self.steps if step.identity in met)
        return tuple(step for step in found if plan_cost(distinct([step])).macs)

    def with_raw(self) -> Plan:
        """Return the plan whose vectors keep the length that they had before they became unit ones.

        Answers that are no unit vectors stay as they are.
        """
        return Plan({task: _raw(step) for task, step in self.answers.items()})

    def rewritten(self, change: Callable[[Step, tuple[Step | str, ...]], Step]) -> Plan:
        """Return a plan of other steps.

        Args:
            change: Function of a step and of what the one in its place takes, to the latter.
        """
        made: dict[bytes, Step] = {}
        for step in self:
            takes = (one if isinstance(one, str) else made[one.identity] for one in step.takes)
            made[step.identity] = change(step, tuple(takes))
        return Plan({task: made[step.identity] for task, step in self.answers.items()})

    def last_common(self, other: Plan) -> tuple[Step, ...]:
        """Return the values of this plan that ``other`` has too and that its own rest goes on from.

        Nothing below them needs to run again where they are known.
        """
        shared = self.identities & other.identities
        gone_on = {
            operand.identity
            for step in self.steps
            if step.identity not in shared
            for operand in step.operands
        }
        return tuple(step for step in self.steps if step.identity in shared & gone_on)

    def rest(self, known: Collection[bytes]) -> list[Step]:
        """Return the steps that must still run where some values are known."""
        return distinct(self.answers.values(), known)


def _raw(step: Step) -> Step:
    if step.raw is None:
        return step
    return Step((step.key, "raw"), step.raw, step.takes, step.cost, timed_as=step.key)


def distinct(ends: Iterable[Step], known: Collection[bytes] = ()) -> list[Step]:
    """Return the steps that some values need, each identity once, operands before users.

    Args:
        ends: Steps whose values are wanted.
        known: Identities of values that are there already, with all that only they need.
    """
    found: dict[bytes, Step] = {}
    seen = set(known)
    for end in ends:
        stack = [end]
        while stack:
            step = stack[-1]
            if step.identity in seen:
                stack.pop()
                continue
            missing = [one for one in step.operands if one.identity not in seen]
            if missing:
                stack += reversed(missing)
            else:
                seen.add(step.identity)
                found[step.identity] = step
                stack.pop()
    return list(found.values())


def plan_cost(steps: Iterable[Step]) -> Cost:
    """Return the summed cost of steps."""
    macs = held = 0
    for step in steps:
        macs += step.cost.macs
        held += step.cost.bytes
    return Cost(macs, held)


def shared_cost(items: Iterable[tuple[Plan, Mapping[str, Hashable]]]) -> Cost:
    """Return the cost of items that run together: of each distinct value once.

    Args:
        items: Of each its plan, for its own shapes, and by input what is equal for equal contents.
    """
    values: dict[tuple[bytes, tuple[Hashable, ...]], int] = {}
    weights: dict[bytes, int] = {}
    for plan, contents in items:
        for step in plan:
            key = (step.identity, tuple(contents[name] for name in step.inputs))
            values[key] = step.cost.macs
            weights[step.identity] = step.cost.bytes
    return Cost(sum(values.values()), sum(weights.values()))

"""The ways in which a model can score the documents of a list, from the cheapest to the best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from models.core import Plan, Shapes, plan_cost
from models.nn.static import is_static
from models.space import Space, Subnet, Value
from models.variants import Choices, choices_of
from search.find import Selection
from search.lengths import IntArray, Lengths
from search.quality.table import FloatArray
from search.timing.front import front as time_front
from server.engine.item import PreparedPlan
from server.served import Served

_MOST = 8
_CHEAPER = 0.8  # of the next rung's cost, at most, or a rung is left out
_BATCH = 8  # documents by whose time rungs are compared
_MAX_PLANS = 128  # of one ladder
_MOST_AGREEMENT = 0.999  # of an exit without layers, however good it was measured
_POINTS = 4  # lengths at which times are predicted; between them in a straight line
_WORTH_KEEPING = 0.2  # of a rung's cost, at least, or what it shares with another is computed anew


@dataclass(frozen=True)
class Rung:
    """One way to score a document.

    Attributes:
        subnet: What runs.
        agreement: Of its scores with the best rung's, 0..1: the part of the quality that is kept.
    """

    subnet: Subnet
    agreement: float = 1.0


@dataclass(frozen=True, eq=False)
class Rungs:
    """A model's rungs for one task, cheapest first.

    Attributes:
        served: The model.
        task: What ranks.
        rungs: The last is the best.
    """

    served: Served
    task: str
    rungs: Sequence[Rung]
    _coefficients: dict[tuple[int, int], IntArray] = field(default_factory=dict)

    @property
    def agreements(self) -> list[float]:
        """Of each rung."""
        return [rung.agreement for rung in self.rungs]

    @cached_property
    def is_one_space(self) -> bool:
        """Whether the vectors of all rungs may be compared."""
        return len({self.served.space_of(rung.subnet) for rung in self.rungs} - {None}) == 1

    def basis(self, shapes: Sequence[Shapes]) -> IntArray:
        """Return what `macs` needs to know of items of some shapes, shape [items, coefficients]."""
        inputs = self.served.inputs
        keys = [tuple(one.items()) for one in shapes]
        known = {key: self._lengths.basis(inputs.lengths(dict(key))) for key in set(keys)}
        return np.array([known[key] for key in keys])

    def macs(self, rung: int, before: int, basis: IntArray) -> IntArray:
        """Return what a rung costs for some items, in multiply-accumulates.

        Args:
            rung: Number.
            before: Of the rung whose state the items go on from; -1 for none.
            basis: Of the items.

        Returns:
            Shape [items].
        """
        key = (rung, before)
        if key not in self._coefficients:
            self._coefficients[key] = self._polynomial(*key)
        found: IntArray = basis @ self._coefficients[key]
        return found

    def shared(self, rung: int, before: int) -> frozenset[bytes]:
        """Return the values of a lower rung that a higher one goes on from; none if hardly any.

        Nothing goes on from a higher rung: a query may be needed by a lower one later.
        """
        if not 0 <= before < rung:
            return frozenset()
        return self._shared[rung, before]

    def kept(self, rung: int) -> frozenset[bytes]:
        """Return the values of a rung that higher ones go on from."""
        higher = range(rung + 1, len(self.rungs))
        return frozenset().union(*(self.shared(one, rung) for one in higher))

    @cached_property
    def going_on(self) -> Callable[[PreparedPlan, int, int, bool], PreparedPlan]:
        """Function of a rung's plan, its number, the rung that items come from, and what to keep.

        It returns the plan that goes on from that rung, the same one each time: what a plan is
        predicted to take is known by plan. With the last argument true it keeps what higher rungs
        go on from.
        """

        def plan(prepared: PreparedPlan, rung: int, before: int, keeps: bool) -> PreparedPlan:
            known, keep = self.shared(rung, before), self.kept(rung) if keeps else frozenset()
            return replace(prepared, known=known, keep=keep) if known or keep else prepared

        return lru_cache(_MAX_PLANS)(plan)

    @cached_property
    def _shared(self) -> Mapping[tuple[int, int], frozenset[bytes]]:
        plans = [self._plan(rung.subnet, None) for rung in self.rungs]
        found = {}
        for high, plan in enumerate(plans):
            for low in range(high):
                common = frozenset(step.identity for step in plan.last_common(plans[low]))
                saved = plan.cost.macs - plan_cost(plan.rest(common)).macs
                is_worth = saved >= _WORTH_KEEPING * plans[low].cost.macs
                found[high, low] = common if is_worth else frozenset()
        return found

    @cached_property
    def _lengths(self) -> Lengths:
        return Lengths.of(self.served.inputs, self.served.names(self.rungs[-1].subnet))

    def _polynomial(self, rung: int, before: int) -> IntArray:
        known = self.shared(rung, before)
        subnet = self.rungs[rung].subnet
        values = [
            plan_cost(self._plan(subnet, shapes).rest(known)).macs
            for shapes in self._lengths.planned()
        ]
        return self._lengths.coefficients(np.array(values, dtype=np.int64))

    def _plan(self, subnet: Subnet, shapes: Shapes | None) -> Plan:
        served = self.served
        shapes = shapes or _shapes(served, subnet)
        return served.elastic.plan(subnet, shapes, [self.task])


def seconds(prepared: PreparedPlan, lengths: Sequence[Mapping[str, int]]) -> FloatArray:
    """Predict what each of some items adds to a batch, from a few of them; shape [items].

    Args:
        prepared: The plan.
        lengths: Of each item, by input.
    """
    sums = np.array([sum(one.values()) for one in lengths])
    order = np.argsort(sums, kind="stable")
    picked = order[np.unique(np.linspace(0, len(order) - 1, _POINTS).round().astype(np.int64))]
    known = [prepared.share(lengths[i]).more for i in picked]
    found: FloatArray = np.interp(sums, sums[picked], known)
    return np.maximum(found, 1e-6)


def ladder_to(
    served: Served,
    best: Selection,
    task: str,
    resident: frozenset[Choices] | None,
    by_time: bool,
) -> Rungs:
    """Return the rungs up to a subnet: what it goes on from, or what keeps most in less time.

    Args:
        served: The model.
        best: The last rung.
        task: What ranks.
        resident: Choices on load axes whose weights are there; None for a model without any.
        by_time: Whether what costs less takes less time here, which has to be known; else it has
            fewer multiply-accumulates.
    """
    space = served.elastic.space
    outputs = {axis.name: best.subnet[axis.name] for axis in space.axes if axis.kind == "output"}
    if any(axis.task == task and axis.name in outputs for axis in space.axes):
        # Which vectors the others would have cannot be said to a search: it fixes shared axes only.
        return Rungs(served, task, [Rung(best.subnet)])
    outputs = {name: value for name, value in outputs.items() if name in _shared(space)}
    found, shapes = [best], _shapes(served, best.subnet)
    for one in (*_chain(served, best, task), *_front(served, shapes, outputs, task, by_time)):
        is_there = resident is None or choices_of(space, one.subnet) in resident
        if is_there and one.quality < best.quality:
            found.append(one)
    rungs = list(_ascending(served, found, best, task, by_time))
    least = min(served.finders.at(fixed=outputs).front([task]), key=lambda one: one.cost.macs)
    if is_static(served.elastic.plan(least.subnet, served.inputs.plan_shapes(), [task])):
        # Whatever was measured, it takes next to nothing.
        own = min(_MOST_AGREEMENT, least.quality / best.quality)
        rungs = [one for one in rungs if one.agreement > own][-(_MOST - 1) :]
        rungs.insert(0, Rung(least.subnet, own))
    return Rungs(served, task, rungs)


def _shapes(served: Served, subnet: Subnet) -> Shapes:
    """Return the largest shapes of the inputs that a subnet is for."""
    return served.inputs.plan_shapes(names=served.names(subnet))


def _shared(space: Space) -> tuple[str, ...]:
    """Return the axes that all tasks depend on."""
    return tuple(axis.name for axis in space.axes if axis.task is None)


def _chain(served: Served, best: Selection, task: str) -> Iterator[Selection]:
    """Yield the subnets that the best one goes on from."""
    axis, space = served.exits, served.elastic.space
    for value in () if axis is None else axis.values[: axis.index(best.subnet[axis.name])]:
        subnet = best.subnet | {axis.name: value} if axis else best.subnet
        if space.has(subnet) and served.table.locate(task, subnet):
            fixed = {name: subnet[name] for name in _shared(space)}
            yield served.finders.at(_shapes(served, subnet), fixed).find([task])


def _front(
    served: Served, shapes: Shapes, outputs: Mapping[str, Value], task: str, by_time: bool
) -> Iterable[Selection]:
    """Return the subnets of the same answers that are best for their cost."""
    finder = served.finders.at(shapes, outputs)
    if served.profile is None or not by_time:
        return finder.front([task])
    return time_front(finder, served.profile, (_BATCH,))


def _ascending(
    served: Served, found: Sequence[Selection], best: Selection, task: str, by_time: bool
) -> Iterator[Rung]:
    """Yield rungs, cheapest first, each clearly cheaper than the next and worth less."""

    def cost(one: Selection) -> float:
        if not by_time and one is not best:
            return float(one.cost.macs)
        if not by_time:  # of the longest inputs as well: the request's own may be short
            shapes = _shapes(served, best.subnet)
            return float(served.elastic.plan(best.subnet, shapes, [task]).cost.macs)
        prepared = served.prepare(one.subnet, [task])
        lengths = served.inputs.lengths(_shapes(served, one.subnet))
        return prepared.share(lengths).more

    kept: list[tuple[float, Selection]] = [(cost(best), best)]
    for one in sorted(found, key=lambda one: -one.quality):
        last, least = kept[-1]
        own = cost(one)
        if one.quality < least.quality and own <= _CHEAPER * last and len(kept) < _MOST:
            kept.append((own, one))
    for _, one in reversed(kept):
        yield Rung(one.subnet, 1.0 if one is best else one.quality / best.quality)

"""Measure a model's profile: seconds of every step, by rows and length, on one back end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from torch import nn

from models.core import Plan, Step, distinct
from models.elastic import Elastic
from models.inputs import Inputs
from models.nn.ragged import Value
from models.run.backend import Backend
from models.run.chain import Chain, External
from models.space import Subnet
from models.variants import Choices, build, choices_of
from search.quality.table import FloatArray, Table, inputs_of
from search.timing.profile import Function, LatencyProfile, function_of

ROWS = (1, 4, 16)
LENGTHS = (8, 32, 128)
_MAX_TOKENS = 512  # beyond, time grows with the tokens, near enough until it is seen
_ALMOST = 0.99  # done, when the time is up and the batch at hand still runs
_MIN_RUNS, _MAX_RUNS, _ENOUGH_S, _ALIKE = 2, 8, 0.02, 1.25


def calibrate(
    model: Elastic,
    table: Table,
    backend: Backend,
    clock: Callable[[], float],
    max_s: float = math.inf,
    tell: Callable[[float], None] = lambda _: None,
) -> LatencyProfile:
    """Time every function of a model that its table can choose.

    Functions of one kind that cost the same, such as one layer after the other, are timed once.
    Of a model with load axes each variant is built, timed and given up, one after the other.

    Args:
        model: Prepared by the back end.
        table: Says which subnets there are.
        backend: Runs the steps; called from this thread alone.
        clock: Returns seconds.
        max_s: For each set of weights. After this time the batch at hand is run once for each plan
            and no larger one is begun; their times are taken to grow with the tokens or rows from
            those measured.
        tell: Told the part that is done, 0..1, now and then.
    """
    start = clock()
    longest = model.inputs.lengths(model.inputs.plan_shapes())
    lengths = _up_to(LENGTHS, min(longest.values())) if longest else (0,)
    by_load: dict[Choices, list[Subnet]] = {choices_of(model.space, table.rows[-1]): []}
    for subnet in _subnets(table):
        by_load.setdefault(choices_of(model.space, subnet), []).append(subnet)

    def tell_part(number: int, part: float) -> None:
        """Tell how much is done, by batches or by time, whichever is further."""
        done = max((number + part) / len(by_load), (clock() - start) / max_s / len(by_load))
        tell(min(done, _ALMOST))

    kinds: dict[_Kind, int] = {}
    curves: dict[Function, int] = {}
    found: list[FloatArray] = []
    for number, (load, subnets) in enumerate(by_load.items()):
        variant = build(model, load)
        if variant is not model:
            backend.prepare(_module(variant))
        plans = _plans(variant, subnets)
        for step in (step for plan in plans for step in plan):
            if (function := function_of(step)) not in curves:
                curves[function] = kinds.setdefault(_kind(step, longest, load), len(kinds))
        new = range(sum(map(len, found)), len(kinds))
        runs = [_Run(plan, curves) for plan in _covering(plans, curves, new)]
        timer = _Timer(backend, clock, clock() + max_s, partial(tell_part, number))
        found.append(timer.seconds(runs, new, variant.inputs, lengths))
        if variant is not model:
            backend.forget(_module(variant), beside=_module(model))
    sequences = [kind.sequences for kind in kinds]
    return LatencyProfile(curves, ROWS, lengths, np.concatenate(found), sequences)


def _module(model: Elastic) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"a variant of {model.name} is no module")
    return model


def _plans(model: Elastic, subnets: Iterable[Subnet]) -> list[Plan]:
    """Return the plans of subnets, of the largest shapes of the inputs that they are for."""
    axes, inputs = model.space.axes, model.inputs
    return [model.plan(one, inputs.plan_shapes(names=inputs_of(axes, one))) for one in subnets]


def _up_to(lengths: Sequence[int], longest: int) -> tuple[int, ...]:
    kept = tuple(length for length in lengths if length < longest)
    return (*kept, min(longest, 4 * lengths[-1]))


def _subnets(table: Table) -> Iterable[Subnet]:
    """Yield subnets that together hold every cell of the table."""
    columns = [cells.columns for cells in table.cells.values()]
    for row in table.rows:
        for c in range(max(map(len, columns))):
            own = (of_task[min(c, len(of_task) - 1)] for of_task in columns)
            yield Subnet({**row, **{k: v for choice in own for k, v in choice.items()}})


class _Kind(NamedTuple):
    """What is equal for steps that take equally long.

    Attributes:
        name: First part of the key.
        macs: Of one item.
        takes: Number of values.
        sequences: On how many it depends, 1 where on none.
        load: Choices of the variant that has it.
    """

    name: str
    macs: int
    takes: int
    sequences: int
    load: Choices


def _kind(step: Step, lengths: Mapping[str, int], load: Choices) -> _Kind:
    name = step.key[0] if isinstance(step.key, tuple) else step.key
    sequences = sum(name in lengths for name in step.inputs)
    return _Kind(repr(name), step.cost.macs, len(step.takes), max(1, sequences), load)


def _covering(
    plans: Sequence[Plan], curves: Mapping[Function, int], wanted: Collection[int]
) -> list[Plan]:
    """Return few cheap plans that have all wanted curves, and of each only what is needed of it.

    The next one has the most curves that are still missing for its MACs (the greedy rule for set
    cover). Of its answers only those stay that need such a curve: most tasks have the same.
    """
    own = [{curves[function_of(step)] for step in plan} for plan in plans]
    macs = [1 + plan.cost.macs for plan in plans]
    missing = set(wanted)
    needed = []
    while missing:
        best = max(range(len(plans)), key=lambda i: len(own[i] & missing) / macs[i])
        kept: dict[str, Step] = {}
        for task, answer in plans[best].answers.items():
            on_way = {curves[function_of(step)] for step in distinct([answer])}
            if on_way & missing:
                kept[task] = answer
                missing -= on_way
        needed.append(Plan(kept))
    return needed


class _Run:
    """A plan that is run step by step."""

    def __init__(self, plan: Plan, curves: Mapping[Function, int]) -> None:
        self._steps = [
            (step.identity, Chain([step]), curves[function_of(step)]) for step in plan.steps
        ]

    @cached_property
    def curves(self) -> frozenset[int]:
        """Those that its steps have."""
        return frozenset(curve for *_, curve in self._steps)

    def times(
        self, batch: Mapping[str, Value], backend: Backend, clock: Callable[[], float]
    ) -> dict[int, list[float]]:
        """Return the seconds of each step, by curve."""
        values: dict[External, Value] = {}
        values.update(batch.items())
        times: dict[int, list[float]] = {}
        for identity, chain, curve in self._steps:
            given = [values[external] for external in chain.externals]
            backend.wait()
            start = clock()
            values[identity] = backend.run_chain(chain, given)
            backend.wait()
            times.setdefault(curve, []).append(max(clock() - start, 1e-9))
        return times


class _Timer(NamedTuple):
    """Times plans on batches of growing size.

    Attributes:
        backend: Runs them.
        clock: Returns seconds.
        end: When no larger batch is begun.
        tell: Told the part that is done, 0..1.
    """

    backend: Backend
    clock: Callable[[], float]
    end: float
    tell: Callable[[float], None]

    def seconds(
        self, runs: Sequence[_Run], curves: range, inputs: Inputs, lengths: Sequence[int]
    ) -> FloatArray:
        """Return the seconds of some curves, shape [curves, rows, lengths]."""
        seconds = np.full((len(curves), len(ROWS), len(lengths)), np.inf)
        cells = list(itertools.product(range(len(ROWS)), range(len(lengths))))
        cells.sort(key=lambda cell: ROWS[cell[0]] * max(1, lengths[cell[1]]))
        for number, (r, c) in enumerate(cells):
            if number and (ROWS[r] * lengths[c] > _MAX_TOKENS or self.clock() > self.end):
                continue
            batch = {
                name: self.backend.place(value)
                for name, value in inputs.batch(
                    [inputs.example(lengths[c] or None)] * ROWS[r]
                ).items()
            }
            tell = partial(self._tell_plan, number / len(cells), len(cells) * len(runs))
            seconds[:, r, c] = self._on(batch, runs, curves, tell, is_first=not number)
        # Less work never takes longer: where it seems to, something else had the machine.
        for axis in (1, 2):
            seconds = np.flip(np.minimum.accumulate(np.flip(seconds, axis), axis), axis)
        for r, c in cells:
            if np.isinf(seconds[:, r, c]).any():
                before, factor = (
                    (seconds[:, r - 1, c], ROWS[r] / ROWS[r - 1])
                    if r
                    else (seconds[:, r, c - 1], lengths[c] / lengths[c - 1])
                )
                seconds[:, r, c] = before * factor
        return seconds

    def _tell_plan(self, before: float, count: int, number: int) -> None:
        self.tell(before + number / count)

    def _on(
        self,
        batch: Mapping[str, Value],
        runs: Sequence[_Run],
        curves: range,
        tell: Callable[[int], None],
        is_first: bool,
    ) -> FloatArray:
        """Return the seconds of curves on one batch; the first batch of all warms up.

        Each step is timed within its plan, not by itself again and again: its weights then come
        from where they lie when requests follow one another, and not from the cache.
        """
        seen: dict[int, list[float]] = {}
        for number, run in enumerate(runs):
            tell(number)
            new = run.curves - seen.keys()
            if is_first:
                run.times(batch, self.backend, self.clock)
            totals: list[float] = []
            while not _is_enough(totals) and (not totals or self.clock() <= self.end):
                times = run.times(batch, self.backend, self.clock)
                totals.append(sum(map(sum, times.values())))
                for curve in new:
                    seen.setdefault(curve, []).extend(times[curve])
        return np.array([_undisturbed(seen[curve]) for curve in curves])


def _is_enough(totals: Sequence[float]) -> bool:
    """Return whether a plan was run often enough: until its two best times are alike."""
    if len(totals) < _MIN_RUNS or len(totals) >= _MAX_RUNS:
        return len(totals) >= _MAX_RUNS
    best, second = sorted(totals)[:2]
    return second < _ALIKE * best and sum(totals) > _ENOUGH_S


def _undisturbed(times: list[float]) -> float:
    """Return the lower quartile: what else the machine does only adds, and at times manifold."""
    return sorted(times)[len(times) // 4]

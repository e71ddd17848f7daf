"""Measure a model's profile: seconds of every step, by rows and length, on one back end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np

from models.core import Elastic, Plan, Step, distinct
from models.inputs import Inputs
from models.nn.ragged import Value
from models.run.backend import Backend
from models.run.chain import Chain, External
from models.space import Subnet
from search.quality.table import FloatArray, Table, inputs_of
from search.timing.profile import Function, LatencyProfile, function_of

ROWS = (1, 4, 16)
LENGTHS = (8, 32, 128)
_MAX_TOKENS = 512  # beyond, time grows with the tokens, near enough until it is seen
_Kind: TypeAlias = tuple[str, int, int, int]

_MIN_RUNS, _MAX_RUNS, _ENOUGH_S, _ALIKE = 2, 8, 0.02, 1.25


def calibrate(
    model: Elastic,
    table: Table,
    backend: Backend,
    clock: Callable[[], float],
    max_s: float = math.inf,
) -> LatencyProfile:
    """Time every function of a model that its table can choose.

    Functions of one kind that cost the same, such as one layer after the other, are timed once.

    Args:
        model: Prepared by the back end.
        table: Says which subnets there are.
        backend: Runs the steps; called from this thread alone.
        clock: Returns seconds.
        max_s: After this time the batch at hand is run once for each plan and no larger one is
            begun; their times are taken to grow with the tokens or rows from those measured.
    """
    end = clock() + max_s
    inputs = model.inputs
    longest = inputs.lengths(inputs.plan_shapes())
    lengths = _up_to(LENGTHS, min(longest.values())) if longest else (0,)
    plans = _plans(model, table)
    kinds: dict[_Kind, int] = {}
    curves = {
        function_of(step): kinds.setdefault(_kind(step, longest), len(kinds))
        for plan in plans
        for step in plan
    }
    runs = [_Run(plan, curves) for plan in _covering(plans, curves)]
    seconds = np.full((len(kinds), len(ROWS), len(lengths)), np.inf)
    cells = list(itertools.product(range(len(ROWS)), range(len(lengths))))
    cells.sort(key=lambda cell: ROWS[cell[0]] * max(1, lengths[cell[1]]))
    for number, (r, c) in enumerate(cells):
        if number and (ROWS[r] * lengths[c] > _MAX_TOKENS or clock() > end):
            continue
        batch = _batch(inputs, ROWS[r], lengths[c] or None, backend)
        seconds[:, r, c] = _time(runs, batch, backend, clock, end, is_first=not number)
    # Less work never takes longer: where it seems to, something else had the machine.
    for axis in (1, 2):
        seconds = np.flip(np.minimum.accumulate(np.flip(seconds, axis), axis), axis)
    for r, c in cells:
        if np.isinf(seconds[0, r, c]):
            before, factor = (
                (seconds[:, r - 1, c], ROWS[r] / ROWS[r - 1])
                if r
                else (seconds[:, r, c - 1], lengths[c] / lengths[c - 1])
            )
            seconds[:, r, c] = before * factor
    return LatencyProfile(curves, ROWS, lengths, seconds, [sequences for *_, sequences in kinds])


def functions(model: Elastic, table: Table) -> set[Function]:
    """Return the functions of a model that its table can choose."""
    return {function_of(step) for plan in _plans(model, table) for step in plan}


def _plans(model: Elastic, table: Table) -> list[Plan]:
    """Return plans that together hold every cell of the table, of the largest shapes."""
    return [
        model.plan(subnet, model.inputs.plan_shapes(names=inputs_of(model.space.axes, subnet)))
        for subnet in _subnets(table)
    ]


def _up_to(lengths: Sequence[int], longest: int) -> tuple[int, ...]:
    kept = tuple(length for length in lengths if length < longest)
    return (*kept, min(longest, 4 * lengths[-1]))


def _subnets(table: Table) -> Iterable[Subnet]:
    columns = [cells.columns for cells in table.cells.values()]
    for row in table.rows:
        for c in range(max(map(len, columns))):
            own = (of_task[min(c, len(of_task) - 1)] for of_task in columns)
            yield Subnet({**row, **{k: v for choice in own for k, v in choice.items()}})


def _kind(step: Step, lengths: Mapping[str, int]) -> _Kind:
    """Return what is equal for steps that take equally long; at the end on how many sequences."""
    name = step.key[0] if isinstance(step.key, tuple) else step.key
    sequences = sum(name in lengths for name in step.inputs)
    return repr(name), step.cost.macs, len(step.takes), max(1, sequences)


def _covering(plans: Sequence[Plan], curves: Mapping[Function, int]) -> list[Plan]:
    """Return few cheap plans that have every curve, and of each only what is needed of it.

    The next one has the most curves that are still missing for its MACs (the greedy rule for set
    cover). Of its answers only those stay that need such a curve: most tasks have the same.
    """
    own = [{curves[function_of(step)] for step in plan} for plan in plans]
    macs = [1 + plan.cost.macs for plan in plans]
    missing = set(curves.values())
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


def _batch(inputs: Inputs, rows: int, length: int | None, backend: Backend) -> dict[str, Value]:
    """Return equal rows of all inputs, placed."""
    batch = inputs.batch([inputs.example(length)] * rows)
    return {name: backend.place(value) for name, value in batch.items()}


def _time(
    runs: Sequence[_Run],
    batch: Mapping[str, Value],
    backend: Backend,
    clock: Callable[[], float],
    end: float,
    is_first: bool,
) -> FloatArray:
    """Return the seconds of every curve on one batch; the first batch of all warms up.

    Each step is timed within its plan, not by itself again and again: its weights then come from
    where they lie when requests follow one another, and not from the cache.
    """
    seen: dict[int, list[float]] = {}
    for run in runs:
        new = run.curves - seen.keys()
        if is_first:
            run.times(batch, backend, clock)
        totals: list[float] = []
        while not _is_enough(totals) and (not totals or clock() <= end):
            times = run.times(batch, backend, clock)
            totals.append(sum(map(sum, times.values())))
            for curve in new:
                seen.setdefault(curve, []).extend(times[curve])
    return np.array([_undisturbed(seen[curve]) for curve in range(len(seen))])


def _is_enough(totals: Sequence[float]) -> bool:
    """Return whether a plan was run often enough: until its two best times are alike."""
    if len(totals) < _MIN_RUNS or len(totals) >= _MAX_RUNS:
        return len(totals) >= _MAX_RUNS
    best, second = sorted(totals)[:2]
    return second < _ALIKE * best and sum(totals) > _ENOUGH_S


def _undisturbed(times: list[float]) -> float:
    """Return the lower quartile: what else the machine does only adds, and at times manifold."""
    return sorted(times)[len(times) // 4]

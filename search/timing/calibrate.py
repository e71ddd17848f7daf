"""Measure a model's profile: seconds of every step, by rows and length, on one back end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from models.core import Plan, Step
from models.elastic import Elastic
from models.inputs.image import ModelInput
from models.nn.ragged import Value
from models.run.backend import Backend
from models.space import Subnet
from search.quality.table import FloatArray, Table
from search.timing.profile import Function, Profile, function_of

ROWS = (1, 4, 16)
LENGTHS = (8, 32, 128)
_MAX_TOKENS = 512  # beyond, time grows with the tokens, near enough until it is seen
_ALMOST = 0.99  # done, when the time is up and the batch at hand still runs
_MIN_RUNS, _MAX_RUNS, _ENOUGH_S, _ALIKE = 2, 8, 0.02, 1.25


def calibrate(
    model: Elastic,
    model_input: ModelInput,
    table: Table,
    backend: Backend,
    clock: Callable[[], float],
    max_s: float = math.inf,
    tell: Callable[[float], None] = lambda _: None,
) -> Profile:
    """Time every function of a model that its table can choose.

    Functions of one kind that cost the same, such as one layer after the other, are timed once.

    Args:
        model: Prepared by the back end.
        model_input: Makes its batches.
        table: Says which subnets there are.
        backend: Runs the steps; called from this thread alone.
        clock: Returns seconds.
        max_s: After this time the batch at hand is run once for each plan and no larger one is
            begun; their times are taken to grow with the tokens or rows from those measured.
        tell: Told the part that is done, 0..1, now and then.
    """
    start = clock()
    end = start + max_s
    whole = model_input.plan_shape(None)
    lengths = _up_to(LENGTHS, whole[0]) if model_input.has_length else (0,)
    plans = _plans(model, model_input, table)
    kinds: dict[tuple[Hashable, ...], int] = {}
    curves = {
        function_of(step): kinds.setdefault(_kind(step), len(kinds))
        for plan in plans
        for step in plan
    }
    needed = _covering(plans, curves)
    seconds = np.full((len(kinds), len(ROWS), len(lengths)), np.inf)
    cells = list(itertools.product(range(len(ROWS)), range(len(lengths))))
    cells.sort(key=lambda cell: ROWS[cell[0]] * max(1, lengths[cell[1]]))

    def tell_cell(number: int, part: float) -> None:
        """Tell how much is done, by batches or by time, whichever is further."""
        done = max((number + part) / len(cells), (clock() - start) / max_s)
        tell(min(done, _ALMOST))

    for number, (r, c) in enumerate(cells):
        if number and (ROWS[r] * lengths[c] > _MAX_TOKENS or clock() > end):
            continue
        inputs = model_input.collate([model_input.example(lengths[c] or None)] * ROWS[r])
        tell_plan = partial(tell_cell, number)
        seconds[:, r, c] = _time(
            needed, curves, inputs, backend, clock, end, tell_plan, is_first=not number
        )
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
    return Profile(curves, ROWS, lengths, seconds)


def _plans(model: Elastic, model_input: ModelInput, table: Table) -> list[Plan]:
    whole = model_input.plan_shape(None)
    return [model.plan(subnet, whole) for subnet in _subnets(table)]


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


def _kind(step: Step) -> tuple[Hashable, ...]:
    name = step.key[0] if isinstance(step.key, tuple) else step.key
    return (name, step.cost, step.takes)


def _covering(plans: Sequence[Plan], curves: dict[Function, int]) -> list[Plan]:
    """Return few cheap plans that have every curve, and of each only what is needed of it.

    The next one has the most curves that are still missing for its MACs (the greedy rule for set
    cover). Of its answers only those stay whose way has such a curve: most tasks have the same.
    """
    own = [{curves[function_of(step)] for step in plan} for plan in plans]
    macs = [1 + sum(step.cost.macs for step in plan) for plan in plans]
    missing = set(curves.values())
    needed = []
    while missing:
        best = max(range(len(plans)), key=lambda i: len(own[i] & missing) / macs[i])
        kept: set[Step] = set()
        for way in _ways(plans[best]):
            on_way = {curves[function_of(step)] for step in way}
            if on_way & missing:
                kept.update(way)
                missing -= on_way
        needed.append(tuple(step for step in plans[best] if step in kept))
    return needed


def _ways(plan: Plan) -> Iterator[list[Step]]:
    """Yield for each answer of a plan the steps that lead to it."""
    parents = {step.after for step in plan}
    for leaf in plan:
        if leaf in parents:
            continue
        way: list[Step] = []
        step: Step | None = leaf
        while step is not None:
            way.append(step)
            step = step.after
        yield way[::-1]


def _time(
    plans: Sequence[Plan],
    curves: dict[Function, int],
    inputs: Any,
    backend: Backend,
    clock: Callable[[], float],
    end: float,
    tell: Callable[[float], None],
    is_first: bool,
) -> FloatArray:
    """Return the seconds of every curve on one batch; the first batch of all warms up.

    Each step is timed within its plan, not by itself again and again: its weights then come from
    where they lie when requests follow one another, and not from the cache.
    """
    placed = {name: backend.place(value) for name, value in inputs.items()}
    seen: dict[int, list[float]] = {}
    for number, plan in enumerate(plans):
        tell(number / len(plans))
        new = {curves[function_of(step)] for step in plan} - seen.keys()
        if is_first:
            _run(plan, curves, placed, backend, clock)
        totals: list[float] = []
        while not _is_enough(totals) and (not totals or clock() <= end):
            times = _run(plan, curves, placed, backend, clock)
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


def _run(
    plan: Plan,
    curves: dict[Function, int],
    inputs: dict[str, Value],
    backend: Backend,
    clock: Callable[[], float],
) -> dict[int, list[float]]:
    """Run a plan step by step; return the seconds of each, by curve."""
    values: dict[Step | None, dict[str, Value]] = {None: inputs}
    times: dict[int, list[float]] = {}
    for step in plan:
        given = values[step.after]
        backend.wait()
        start = clock()
        result = backend.run_chain([step], given)
        backend.wait()
        times.setdefault(curves[function_of(step)], []).append(max(clock() - start, 1e-9))
        values[step] = {**given, step.emits: result}
    return times

"""The best row and columns under a limit: a multiple-choice knapsack for every row.

For a fixed row the tasks are independent, each adding one of a few (gain, load) options; the loads
together must stay within a capacity. The linear relaxation bounds every row at once; rows whose
bound does not exceed the best answer found so far are never looked at. In the few that remain,
options whose reduced loss exceeds the room between bound and answer cannot be part of a better one
and are fixed; what is left is enumerated. The answer is exact unless that enumeration would
exceed ``MAX_STATES``; then the bound on what was missed is returned with it.

Sources: Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem, Operations Research 27(3),
for the relaxation over convex hulls; reduced-cost fixing is textbook integer programming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from search.grid import IntArray
from search.table import FloatArray

MAX_STATES = 4096
_ROUNDING = 1e-9  # sums of floats may differ by this and mean the same
_ROWS_AT_ONCE = 12
_SORT_ABOVE = 64  # states; fewer are cheaper to carry on than to compare


@dataclass(frozen=True)
class Hulls:
    """The options of each (row, task) on the upper convex hull of value over cost.

    Attributes:
        columns: Option at each hull position, cheapest first; shape [positions, rows, tasks].
            A hull with fewer positions has its last repeated.
        length: Number of steps between distinct positions, shape [rows, tasks].
    """

    columns: IntArray
    length: IntArray


@dataclass(frozen=True)
class Problem:
    """Maximise gain with load within capacity, in every row.

    Attributes:
        gain: Of each option, before scaling, shape [rows, columns, tasks].
        gain_scale: Factor of each task's gains, shape [tasks].
        load: As for gain.
        load_scale: As for gain.
        row_gain: Added whatever is chosen, shape [rows].
        row_load: Likewise.
        start_gain: Of the row with every task at the hull's lightest option, shape [rows].
        start_load: Likewise.
        step_gain: Of each step along the hull, non-negative, the best gain per load first; shape
            [rows, steps, tasks].
        step_load: Likewise.
        total_gain: Of all steps together, shape [rows].
        total_load: Likewise.
        start: Hull position of the lightest option, shape [rows, tasks].
        direction: What a step adds to the hull position, 1 or -1.
        columns: Column at each hull position, shape [positions, rows, tasks].
        capacity: Load allowed.
    """

    gain: FloatArray
    gain_scale: FloatArray
    load: FloatArray
    load_scale: FloatArray
    row_gain: FloatArray
    row_load: FloatArray
    start_gain: FloatArray
    start_load: FloatArray
    step_gain: FloatArray
    step_load: FloatArray
    total_gain: FloatArray
    total_load: FloatArray
    start: IntArray
    direction: int
    columns: IntArray
    capacity: float


@dataclass(frozen=True)
class Answer:
    """The best choice found.

    Attributes:
        row: Its row.
        columns: Its column per task, shape [tasks].
        gain: Its gain.
        gap: No choice gains more than ``gain + gap``.
    """

    row: int
    columns: IntArray
    gain: float
    gap: float


class _Relaxed(NamedTuple):
    """The linear relaxation of some rows; all arrays have shape [rows asked]."""

    bound: FloatArray  # no choice in the row gains more
    multiplier: FloatArray  # gain per load at the optimum
    greedy: FloatArray  # gain of the whole steps taken, a choice that fits
    left: FloatArray  # capacity that the whole steps leave
    order: IntArray  # steps, the best first, shape [rows asked, steps x tasks]
    taken: IntArray  # how many of them fit


def solve(problem: Problem, tolerance: float = 0.0) -> Answer | None:
    """Return a choice of largest gain, or None if no row's lightest choice fits.

    Args:
        problem: What to choose from.
        tolerance: A choice that gains up to this much less than the best will do.
    """
    rows = np.flatnonzero(problem.start_load <= problem.capacity)
    if not len(rows):
        return None
    tolerance = max(tolerance, _ROUNDING)
    best: Answer | None = None
    bound = np.full(len(rows), np.inf)
    promising: list[tuple[float, int, float]] = []  # upper bound, row, multiplier
    some = np.array([_likely(problem, rows)])
    while True:
        relaxed = _relax(problem, rows[some])
        promising += zip(
            relaxed.bound.tolist(), rows[some].tolist(), relaxed.multiplier.tolist(), strict=True
        )
        bound[some] = -np.inf
        top = int(relaxed.greedy.argmax())
        if best is None or relaxed.greedy[top] > best.gain:
            best = _greedy(problem, int(rows[some[top]]), relaxed, top)
        if np.count_nonzero(bound > best.gain + tolerance) > _ROWS_AT_ONCE:
            # Where many remain, the multiplier of another good row tightens their bounds.
            multiplier = float(relaxed.multiplier[top])
            np.minimum(bound, _bound(problem, rows, multiplier), out=bound)
        if bound.max() <= best.gain + tolerance:
            break
        some = _largest(bound, _ROWS_AT_ONCE)
    highest = float(bound.max())  # over the rows never relaxed
    for upper, row, multiplier in sorted(promising, reverse=True):
        if upper > best.gain + tolerance:
            best, upper = _close(problem, row, multiplier, best, tolerance)
        highest = max(highest, upper)
    gap = highest - best.gain
    return Answer(best.row, best.columns, best.gain, gap if gap > 2 * _ROUNDING else 0.0)


def _largest(values: FloatArray, count: int) -> IntArray:
    """Return the positions of the largest values, in no order."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(values, len(values) - count)[-count:]


def _likely(problem: Problem, rows: IntArray) -> int:
    """Guess which row is best: gain grows about as the square root of the load spent on it."""
    start, total = problem.start_load[rows], problem.total_load[rows]
    part = np.clip((problem.capacity - start) / np.maximum(total, 1e-300), 0.0, 1.0)
    return int((problem.start_gain[rows] + problem.total_gain[rows] * np.sqrt(part)).argmax())


def _bound(problem: Problem, rows: IntArray, multiplier: float) -> FloatArray:
    """Return the Lagrangian bound on each row's gain, shape [rows]."""
    if not multiplier:
        bound: FloatArray = problem.start_gain[rows] + problem.total_gain[rows]
        return bound
    gain, load = problem.step_gain, problem.step_load
    if len(rows) < len(gain):
        gain, load = gain[rows], load[rows]
    reduced = load * -multiplier
    reduced += gain
    np.maximum(reduced, 0.0, out=reduced)
    slack = problem.capacity - problem.start_load[rows]
    bound = problem.start_gain[rows] + multiplier * slack
    bound += reduced.reshape(len(rows), -1).sum(axis=1)
    return bound


def _relax(problem: Problem, rows: IntArray) -> _Relaxed:
    """Solve the linear relaxation of some rows, all at once."""
    gain = problem.step_gain[rows].reshape(len(rows), -1)
    load = problem.step_load[rows].reshape(len(rows), -1)
    slack = problem.capacity - problem.start_load[rows]
    slope = np.where(gain > 0, np.inf, 0.0)
    np.divide(gain, load, out=slope, where=load > 0)
    order = np.argsort(-slope, axis=1, kind="stable")
    each = np.arange(len(rows))
    gain, load = gain[each[:, None], order], load[each[:, None], order]
    spent = np.cumsum(load, axis=1)
    useful = np.count_nonzero(gain, axis=1)  # steps that gain nothing come last
    taken = np.minimum((spent <= slack[:, None]).sum(axis=1), useful)
    last = np.maximum(taken - 1, 0)
    some = taken > 0
    greedy = problem.start_gain[rows] + np.where(some, np.cumsum(gain, axis=1)[each, last], 0.0)
    left = slack - np.where(some, spent[each, last], 0.0)
    # The step that fits only in part, where there is one, sets the multiplier.
    partly = taken < useful
    following = np.minimum(taken, gain.shape[1] - 1)
    multiplier = np.where(partly, slope[each, order[each, following]], 0.0)
    bound = greedy + np.where(partly, left, 0.0) * multiplier
    return _Relaxed(bound, multiplier, greedy, left, order, taken)


def _greedy(problem: Problem, row: int, relaxed: _Relaxed, i: int) -> Answer:
    """Take the whole steps of a relaxed row, then any later ones that still fit."""
    num_tasks = problem.step_gain.shape[2]
    taken = int(relaxed.taken[i])
    order = relaxed.order[i]
    count = np.bincount(order[:taken] % num_tasks, minlength=num_tasks)
    total, left = float(relaxed.greedy[i]), float(relaxed.left[i])
    later = order[taken:]
    gain, load = problem.step_gain[row].ravel()[later], problem.step_load[row].ravel()[later]
    skipped: set[int] = set()
    steps = zip((later % num_tasks).tolist(), gain.tolist(), load.tolist(), strict=True)
    for task, more, needs in steps:
        if more <= 0:
            break
        if needs > left or task in skipped:  # a task's steps must be taken in turn
            skipped.add(task)
            continue
        count[task] += 1
        total += more
        left -= needs
    position = problem.start[row] + problem.direction * np.array(count)
    columns = problem.columns[position, row, np.arange(num_tasks)]
    return Answer(row, columns, total, 0.0)


def _close(
    problem: Problem, row: int, multiplier: float, best: Answer, tolerance: float
) -> tuple[Answer, float]:
    """Look in one row for a choice that gains more than ``best`` by over the tolerance.

    Returns:
        The better of the two, and an upper bound on the gain of every choice in the row.
    """
    gain = problem.gain[row] * problem.gain_scale
    load = problem.load[row] * problem.load_scale
    reduced = gain - multiplier * load
    top = reduced.max(axis=0)
    enough = best.gain + tolerance
    base = problem.row_gain[row] - multiplier * problem.row_load[row]
    credit = multiplier * problem.capacity if multiplier else 0.0  # 0 x infinity is 0 here
    upper = float(base + top.sum() + credit)
    possible = top - reduced < upper - enough
    columns = reduced.argmax(axis=0)
    num_options = possible.sum(axis=0)
    tasks = np.argsort(num_options, kind="stable")
    tasks = tasks[num_options[tasks] > 1]
    load_left = np.append(
        np.where(possible, load, np.inf).min(axis=0)[tasks][::-1].cumsum()[::-1], 0.0
    )
    top_left = np.append(top[tasks][::-1].cumsum()[::-1], 0.0)
    each = np.setdiff1d(np.arange(len(columns)), tasks, assume_unique=True)
    gained = np.array([problem.row_gain[row] + gain[columns[each], each].sum()])
    spent = np.array([problem.row_load[row] + load[columns[each], each].sum()])
    trail: list[tuple[IntArray, IntArray]] = []
    highest = enough if upper > enough else upper
    for i, task in enumerate(tasks.tolist()):
        options = np.flatnonzero(possible[:, task])
        spent = (spent[:, None] + load[options, task]).ravel()
        gained = (gained[:, None] + gain[options, task]).ravel()
        reach = gained - multiplier * spent + (top_left[i + 1] + credit)
        keep = np.flatnonzero((spent + load_left[i + 1] <= problem.capacity) & (reach > enough))
        if len(keep) > _SORT_ABOVE:
            keep = keep[_undominated(spent[keep], gained[keep])]
        if len(keep) > MAX_STATES:
            keep = keep[np.argsort(-reach[keep], kind="stable")]
            highest = max(highest, float(reach[keep[MAX_STATES]]))
            keep = keep[:MAX_STATES]
        if not len(keep):
            return best, highest
        trail.append((keep // len(options), options[keep % len(options)]))
        spent, gained = spent[keep], gained[keep]
    fits = spent <= problem.capacity
    winner = int(np.where(fits, gained, -np.inf).argmax())
    if not fits[winner] or gained[winner] <= best.gain:
        return best, highest
    found = float(gained[winner])
    for task, (parents, chosen) in zip(tasks[::-1].tolist(), reversed(trail), strict=True):
        columns[task] = chosen[winner]
        winner = int(parents[winner])
    return Answer(row, columns, found, 0.0), max(highest, found)


def _undominated(load: FloatArray, gain: FloatArray) -> IntArray:
    """Return the states that no other beats in both load and gain, lightest first."""
    order: IntArray = np.lexsort((-gain, load))
    highest = np.maximum.accumulate(gain[order])
    rises = np.ones(len(order), dtype=np.bool_)
    rises[1:] = highest[1:] > highest[:-1]
    return order[rises]


def hulls(cost: FloatArray, value: FloatArray) -> Hulls:
    """Find the upper convex hull of every (row, task).

    Args:
        cost: Of each option, shape [rows, columns, tasks].
        value: Likewise.
    """
    rows, depth, tasks = cost.shape
    depth = max(depth, 2)  # so that there always is a step, if only one that does nothing
    columns = np.zeros((depth, rows, tasks), dtype=np.int64)
    length = np.zeros((rows, tasks), dtype=np.int64)
    for r in range(rows):
        for t in range(tasks):
            chain = _hull(cost[r, :, t].tolist(), value[r, :, t].tolist())
            length[r, t] = len(chain) - 1
            columns[:, r, t] = chain + [chain[-1]] * (depth - len(chain))
    return Hulls(columns, length)


def _hull(cost: list[float], value: list[float]) -> list[int]:
    chain: list[int] = []
    for c in sorted(range(len(cost)), key=lambda c: (cost[c], -value[c])):
        if chain and value[c] <= value[chain[-1]]:
            continue
        while len(chain) > 1:
            a, b = chain[-2], chain[-1]
            rise, run = value[b] - value[a], cost[b] - cost[a]
            # Clearly falling slopes only: weighing a task must not turn two of its steps around.
            if rise * (cost[c] - cost[b]) > (1 + _ROUNDING) * (value[c] - value[b]) * run:
                break
            chain.pop()
        chain.append(c)
    return chain

"""One row, exactly: a multiple-choice knapsack closed by reduced costs.

TaskOptions whose reduced loss exceeds the room between the row's bound and the best answer found so
far cannot be part of a better one and are dropped; what is left is enumerated. The answer is exact
unless that would exceed ``MAX_STATES``; then the bound on what was missed comes with it.
Reduced-cost fixing is textbook integer programming.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from search.lengths import IntArray
from search.quality.table import FloatArray

MAX_STATES = 4096
_MAX_LISTED = 64  # states


class Knapsack(NamedTuple):
    """Choose one option per task: the most gain with load at most the capacity.

    Attributes:
        gain: Of each option, shape [columns, tasks].
        load: Likewise.
        base_gain: Added whatever is chosen.
        base_load: Likewise.
        capacity: Load allowed.
        multiplier: Gain per load at the optimum of the linear relaxation.
    """

    gain: FloatArray
    load: FloatArray
    base_gain: float
    base_load: float
    capacity: float
    multiplier: float


class Closed(NamedTuple):
    """What `close` found.

    Attributes:
        columns: Option of each task, shape [tasks]; None if no choice gains enough.
        gain: Of that choice.
        bound: No choice gains more.
    """

    columns: IntArray | None
    gain: float
    bound: float


def close(knapsack: Knapsack, best: float, tolerance: float) -> Closed:
    """Look for the choice that gains most, if that is over ``best`` by more than the tolerance."""
    capacity, multiplier = knapsack.capacity, knapsack.multiplier
    reduced = knapsack.gain - multiplier * knapsack.load
    top = reduced.max(axis=0)
    enough = best + tolerance
    credit = multiplier * capacity if multiplier else 0.0  # 0 x infinity is 0 here
    upper = float(knapsack.base_gain - multiplier * knapsack.base_load + top.sum() + credit)
    if upper <= enough:
        return Closed(None, best, upper)
    # By task: the options that can be part of a better choice.
    possible = (reduced > top - (upper - enough)).T.tolist()
    gains, loads = knapsack.gain.T.tolist(), knapsack.load.T.tolist()
    options = [[c for c, is_possible in enumerate(own) if is_possible] for own in possible]
    tasks = sorted(range(len(options)), key=lambda task: len(options[task]))
    spent, gained = [knapsack.base_load], [knapsack.base_gain]
    num_listed = 0
    for task in tasks:  # lists while there are few states, then arrays: each is faster there
        own, load, gain = options[task], loads[task], gains[task]
        if len(spent) * len(own) > _MAX_LISTED:
            break
        spent = [state + load[c] for state in spent for c in own]
        gained = [state + gain[c] for state in gained for c in own]
        num_listed += 1
    later = tasks[num_listed:]
    lightest = _from([min(loads[task][c] for c in options[task]) for task in later])
    dearest = _from([float(top[task]) for task in later])
    load_of, gain_of = np.array(spent), np.array(gained)
    kept: list[IntArray] = []
    highest = enough
    for i, task in enumerate(later):
        own = options[task]
        load_of = (load_of[:, None] + knapsack.load[own, task]).ravel()
        gain_of = (gain_of[:, None] + knapsack.gain[own, task]).ravel()
        reach = gain_of - multiplier * load_of + (dearest[i + 1] + credit)
        keep = np.flatnonzero((load_of + lightest[i + 1] <= capacity) & (reach > enough))
        if len(keep) > _MAX_LISTED:
            keep = keep[_undominated(load_of[keep], gain_of[keep])]
        if len(keep) > MAX_STATES:
            keep = keep[np.argsort(-reach[keep], kind="stable")]
            highest = max(highest, float(reach[keep[MAX_STATES]]))
            keep = keep[:MAX_STATES]
        if not len(keep):
            return Closed(None, best, highest)
        kept.append(keep)
        load_of, gain_of = load_of[keep], gain_of[keep]
    gain_of[load_of > capacity] = -np.inf
    winner = int(gain_of.argmax())
    found = float(gain_of[winner])
    if found <= best:
        return Closed(None, best, highest)
    columns = np.zeros(len(options), dtype=np.int64)
    for i, task in reversed(list(enumerate(tasks))):
        state = winner if i < num_listed else int(kept[i - num_listed][winner])
        winner, option = divmod(state, len(options[task]))
        columns[task] = options[task][option]
    return Closed(columns, found, max(highest, found))


def _from(values: list[float]) -> list[float]:
    """Return the sum of the values from each on, and 0 at the end."""
    return [*itertools.accumulate(reversed(values), initial=0.0)][::-1]


def _undominated(load: FloatArray, gain: FloatArray) -> IntArray:
    """Return the states that no other beats in both load and gain, lightest first."""
    order: IntArray = np.lexsort((-gain, load))
    highest = np.maximum.accumulate(gain[order])
    rises = np.ones(len(order), dtype=np.bool_)
    rises[1:] = highest[1:] > highest[:-1]
    return order[rises]

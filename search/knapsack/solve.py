"""The best row and columns for an objective, exact within a tolerance.

The greedy LP of one row gives a slope whose Lagrangian bound holds for every row. Rows whose bound
does not exceed the best solution so far by more than the tolerance are never looked at. Where a
row's own relaxation leaves more than the tolerance open, the row is closed exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from search.knapsack.close import close
from search.knapsack.objective import GreedyLP, Objective
from search.lengths import IntArray

_ROUNDING = 1e-9  # sums of floats may differ by this and mean the same
_GREEDY = 3  # cost about as much as one bound of every row


class Solution(NamedTuple):
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


def solve(objective: Objective, tolerance: float = 0.0) -> Solution | None:
    """Return a choice of largest gain, or None if no choice keeps the limit.

    Args:
        objective: What is wanted of which rows.
        tolerance: A choice that gains up to this much less than the best will do.
    """
    bound = objective.optimistic.copy()
    row = objective.likely()
    if bound[row] == -np.inf:
        return None
    tolerance = max(tolerance, _ROUNDING)
    best = objective.greedy(row)
    solved = [best]
    while True:
        bound[row] = -np.inf
        enough = best.gain + tolerance
        # Where many rows remain, the slope of a good one bounds them all at the price of a few.
        if len(solved) % _GREEDY == 1 and np.count_nonzero(bound > enough) > _GREEDY:
            slope = objective.slope(best)
            if slope > 0:
                np.minimum(bound, objective.lagrangian(slope), out=bound)
        row = int(bound.argmax())
        if bound[row] <= enough:
            break
        solved.append(objective.greedy(row))
        best = max(best, solved[-1], key=_gain)
    highest = float(bound[row])  # over the rows never solved
    row, columns, gain = best.row, objective.columns(best), best.gain
    for one in sorted(solved, key=_bound, reverse=True):
        upper = one.bound
        if upper > gain + tolerance:
            closed = close(objective.knapsack(one.row, one.slope), gain, tolerance)
            upper = closed.bound
            if closed.columns is not None:
                row, columns, gain = one.row, closed.columns, closed.gain
        highest = max(highest, upper)
    gap = highest - gain
    return Solution(row, columns, gain, gap if gap > 2 * _ROUNDING else 0.0)


def _gain(one: GreedyLP) -> float:
    return one.gain


def _bound(one: GreedyLP) -> float:
    return one.bound

"""The best row and columns for a question, exact within a tolerance.

One row's walk gives a slope that bounds every row; rows whose bound does not exceed the best answer
found so far by more than the tolerance are never looked at, and where a row's own relaxation
leaves more than the tolerance open, the row is closed exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from search.grid import IntArray
from search.knapsack.close import close
from search.knapsack.question import Question, Walk

_ROUNDING = 1e-9  # sums of floats may differ by this and mean the same
_WALKS = 3  # cost about as much as one bound of every row


class Answer(NamedTuple):
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


def solve(question: Question, tolerance: float = 0.0) -> Answer | None:
    """Return a choice of largest gain, or None if no choice keeps the limit.

    Args:
        question: What to choose from.
        tolerance: A choice that gains up to this much less than the best will do.
    """
    bound = question.optimistic.copy()
    row = question.likely()
    if bound[row] == -np.inf:
        return None
    tolerance = max(tolerance, _ROUNDING)
    best = question.walk(row)
    walks = [best]
    while True:
        bound[row] = -np.inf
        enough = best.gain + tolerance
        # Where many rows remain, the slope of a good one bounds them all at the price of a few.
        if len(walks) % _WALKS == 1 and np.count_nonzero(bound > enough) > _WALKS:
            slope = question.slope(best)
            if slope > 0:
                np.minimum(bound, question.bound(slope), out=bound)
        row = int(bound.argmax())
        if bound[row] <= enough:
            break
        walks.append(question.walk(row))
        best = max(best, walks[-1], key=_gain)
    highest = float(bound[row])  # over the rows never walked
    row, columns, gain = best.row, question.columns(best), best.gain
    for walk in sorted(walks, key=_bound, reverse=True):
        upper = walk.bound
        if upper > gain + tolerance:
            closed = close(question.knapsack(walk.row, walk.slope), gain, tolerance)
            upper = closed.bound
            if closed.columns is not None:
                row, columns, gain = walk.row, closed.columns, closed.gain
        highest = max(highest, upper)
    gap = highest - gain
    return Answer(row, columns, gain, gap if gap > 2 * _ROUNDING else 0.0)


def _gain(walk: Walk) -> float:
    return walk.gain


def _bound(walk: Walk) -> float:
    return walk.bound

"""Between which measured points a workload lies, and how near each."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from models.backends.timing import MEAN_TOKENS, SIZES

_LOGS = [math.log(size) for size in SIZES]


class Each(NamedTuple):
    """What each of some steps is given.

    Attributes:
        rows: Items.
        length: Tokens of each sequence of an item.
    """

    rows: float
    length: float


def between(points: Sequence[int], value: float) -> tuple[tuple[int, int], float]:
    """Return the points before and after a value, and how far towards the latter it lies."""
    if len(points) == 1:
        return (0, 0), 0.0
    i = max(0, min(len(points) - 2, bisect_right(points, value) - 1))
    return (i, i + 1), (value - points[i]) / (points[i + 1] - points[i])


def sizes(each: Each) -> tuple[tuple[int, float], tuple[int, float]]:
    """Return the sizes that a workload lies between, and how near it is to each, 0..1."""
    at = math.log(max(each.rows * (each.length / MEAN_TOKENS if each.length else 1.0), 1e-9))
    lower = 0 if at < _LOGS[1] else 1
    upper = min(1.0, max(0.0, (at - _LOGS[lower]) / (_LOGS[lower + 1] - _LOGS[lower])))
    return (lower, 1 - upper), (lower + 1, upper)

"""Every point of the Pareto front of quality over MACs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from models.core import Cost

MOST_POINTS = 64
_SAME = 1e-9  # qualities this close are one


class _Priced(Protocol):
    @property
    def cost(self) -> Cost: ...

    @property
    def quality(self) -> float: ...


P = TypeVar("P", bound=_Priced)


def front(best: Callable[[int], P], least: float, largest: int, most: int) -> list[P]:
    """Return the front, cheapest first.

    Args:
        best: Returns the best subnet of so many MACs at most.
        least: MACs of the cheapest subnet.
        largest: Of the largest.
        most: Points. Of a front of more, those of so many budgets, evenly spaced.
    """
    found = [best(largest)]
    while found[-1].cost.macs > least and len(found) <= most:
        found.append(best(found[-1].cost.macs - 1))
    if len(found) > most:
        found = [best(math.ceil(macs)) for macs in np.linspace(largest, least, most)]
    points: list[P] = []
    for one in reversed(found):
        if not points or one.quality > points[-1].quality + _SAME:
            points.append(one)
    return points

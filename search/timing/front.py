"""Which weights and subnets are on a model's front of quality over time, on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

from models.backends.timing import SIZES
from models.space import Space, Subnet
from models.variants import Choices, choices_of
from search.budget import InfeasibleBudgetError
from search.find import Finder, Selection
from search.terms import Terms
from search.timing.profile import LatencyProfile
from search.timing.timing import Timing

_POINTS = 12  # times tried for each size of batches
_RATIO = math.sqrt(0.5)  # from one to the next


def front(finder: Finder, profile: LatencyProfile, rows: Sequence[int] = SIZES) -> list[Selection]:
    """Return what the search takes as time gets less, for each size of batches, the best first.

    Args:
        finder: Of the model, for items of the shapes that count.
        profile: How long steps take here.
        rows: Sizes of batches.
    """
    found: list[Selection] = []
    for count in rows:
        timing = Timing.of(profile, count)
        limit = finder.find(terms=Terms(timing=timing)).seconds
        assert limit is not None, "there is a timing"
        for _ in range(_POINTS):
            try:
                selection = finder.find(terms=Terms(timing=timing, max_seconds=limit))
            except InfeasibleBudgetError:
                break
            found.append(selection)
            limit *= _RATIO
    return found


def ahead(space: Space, points: Sequence[Selection]) -> dict[Choices, tuple[Subnet, ...]]:
    """Return the choices on load axes that a front has, those of most points first.

    Returns:
        Of each, its subnets, the best first.
    """
    counts: dict[Choices, int] = {}
    quality: dict[Choices, dict[Subnet, float]] = {}
    for point in points:
        choices = choices_of(space, point.subnet)
        counts[choices] = counts.get(choices, 0) + 1
        quality.setdefault(choices, {})[point.subnet] = point.quality
    return {
        one: tuple(sorted(quality[one], key=quality[one].__getitem__, reverse=True))
        for one in sorted(counts, key=counts.__getitem__, reverse=True)
    }

"""Which weights and subnets are on a model's front of quality over time, on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from models.backends.timing import SIZES
from models.space import Space, Subnet
from models.variants import Choices, all_choices, choices_of
from search.budget import InfeasibleBudgetError
from search.find import TOLERANCE, Finder, Selection
from search.terms import Terms
from search.timing.profile import LatencyProfile
from search.timing.timing import Timing

_POINTS = 12  # times tried for each size of batches
_RATIO = math.sqrt(0.5)  # from one to the next
_HOPE = 1.5  # times as fast as the profile says may steps be once the back end has compiled them


def front(
    finder: Finder, profile: LatencyProfile, rows: Sequence[int] = SIZES
) -> Iterator[Selection]:
    """Yield what the search takes as time gets less, for each size of batches, the best first.

    Args:
        finder: Of the model, for items of the shapes that count.
        profile: How long steps take here.
        rows: Sizes of batches.
    """
    for count in rows:
        timing = Timing.of(profile, count)
        limit = finder.find(terms=Terms(timing=timing)).seconds
        assert limit is not None, "there is a timing"
        for _ in range(_POINTS):
            try:
                yield finder.find(terms=Terms(timing=timing, max_seconds=limit))
            except InfeasibleBudgetError:
                break
            limit *= _RATIO


def hopeful(
    finder: Finder, space: Space, profile: LatencyProfile, points: Sequence[Selection]
) -> Iterator[Selection]:
    """Yield what might be on the front if its weights were somewhat faster than the profile says.

    A profile starts from the times of steps that are not compiled yet. Weights that are near the
    front by these are tried; those that are far from it are not.

    Args:
        finder: As for `front`.
        space: Of the model.
        profile: As for `front`.
        points: The front.

    Yields:
        Of weights that the front lacks, the best subnet that has a hope.
    """
    there = {choices_of(space, point.subnet) for point in points}
    for choices in all_choices(space):
        if choices in there:
            continue
        for rows in SIZES:
            timing = Timing.of(profile, rows)
            best = finder.find(terms=Terms(timing=timing))
            assert best.seconds is not None, "there is a timing"
            terms = Terms(
                timing=timing,
                max_seconds=_HOPE * _RATIO**0.5 * best.seconds,
                resident=frozenset({choices}),
            )
            limited = Terms(timing=timing, max_seconds=_RATIO**0.5 * best.seconds)
            try:
                found, rival = finder.find(terms=terms), finder.find(terms=limited)
            except InfeasibleBudgetError:
                continue
            if found.quality > rival.quality + TOLERANCE:
                yield found
                break


def ahead(space: Space, points: Sequence[Selection]) -> dict[Choices, Subnet]:
    """Return the choices on load axes that a front has, those of most points first.

    Returns:
        Of each, its best subnet.
    """
    counts: dict[Choices, int] = {}
    best: dict[Choices, Selection] = {}
    for point in points:
        choices = choices_of(space, point.subnet)
        counts[choices] = counts.get(choices, 0) + 1
        if choices not in best or point.quality > best[choices].quality:
            best[choices] = point
    return {one: best[one].subnet for one in sorted(counts, key=counts.__getitem__, reverse=True)}

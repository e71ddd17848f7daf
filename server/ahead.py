"""What is made ready before requests ask for it, and what may stay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from models.variants import Choices, choices_of
from search.find import Selection
from search.timing.front import ahead, front, hopeful
from server.engine.engine import Engine
from server.errors import ModelNotReadyError
from server.served import Served
from server.variants import Variants

_MOST = 24  # subnets that are built ahead: they take memory, and building them time


async def make_ready(served: Served, engine: Engine, variants: Variants) -> None:
    """Have that built which is to be fast first: what requests without a budget run, then the rest.

    The rest is what is on the front of quality over time here, as the profile has it: weights, of
    each the best subnet, then the other subnets, or a first burst would be slimmed to subnets that
    torch runs. Other weights are not built before somebody prefers what they are good at. Those
    that nobody could prefer are kept after all others.
    """
    space = served.elastic.space
    await engine.core.expect(served, space.largest)
    if served.profile is None:
        return
    points = await _points(served, compiles=engine.core.stats.backend is not None)
    best = ahead(space, points)
    if variants.resident(served) is not None:
        variants.prefer(served, {*best, *_for_preferences(served)})
        for choices in best:
            with suppress(ModelNotReadyError):  # which has been logged
                await variants.build(served, choices)
    there = variants.resident(served)
    wanted = dict.fromkeys((*best.values(), *(point.subnet for point in points)))
    wanted.pop(space.largest, None)
    for number, subnet in enumerate(wanted):
        if there is None or choices_of(space, subnet) in there:
            await engine.core.expect(served, subnet, build=number < _MOST)


def _for_preferences(served: Served) -> set[Choices]:
    """Return the choices of weights that some preferences would take at some budget in MACs."""
    grid = served.finders.at(served.inputs.shapes(served.inputs.example())).grid
    return {grid.loads[number] for number in grid.load.tolist()}


async def _points(served: Served, compiles: bool) -> Sequence[Selection]:
    """Return the front, and what may be on it once it is compiled; the loop goes on meanwhile."""
    assert served.profile is not None
    finder = served.finders.at(served.inputs.shapes(served.inputs.example()))
    points = []
    for point in front(finder, served.profile):
        points.append(point)
        await asyncio.sleep(0)
    if compiles:
        points += hopeful(finder, served.elastic.space, served.profile, points)
    return points

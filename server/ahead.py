"""What is made ready before requests ask for it."""

from __future__ import annotations

from search.timing.front import ahead, front
from server.engine.engine import Engine
from server.errors import ModelNotReadyError
from server.served import Served
from server.variants import Variants


async def make_ready(served: Served, engine: Engine, variants: Variants) -> None:
    """Have that built which is to be fast first: what requests without a budget run, then the rest.

    The rest is weights that are on the front of quality over time here, as the profile has it, and
    of each the best subnet. No search would take other weights, so they are not built.
    """
    await engine.core.expect(served, served.elastic.space.largest)
    if variants.resident(served) is None or served.profile is None:
        return
    finder = served.finders.at(served.inputs.shapes(served.inputs.example()))
    points = front(finder, served.profile)
    for choices, subnet in ahead(served.elastic.space, points).items():
        try:
            await variants.build(served, choices)
        except ModelNotReadyError:
            continue  # which has been logged
        await engine.core.expect(served, subnet)

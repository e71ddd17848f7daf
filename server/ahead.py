"""What is made ready before requests ask for it."""

from __future__ import annotations

from models.space import Subnet
from search.timing.front import ahead, front
from server.engine.engine import Engine
from server.errors import ModelNotReadyError
from server.served import Served
from server.variants import Variants

_MOST = 24  # subnets beside the best: sessions take memory, and building them time


async def make_ready(served: Served, engine: Engine, variants: Variants) -> None:
    """Have that built which is to be fast first: what requests without a budget run, then the rest.

    The rest is what is on the front of quality over time here, as the profile has it: weights, of
    each the best subnet, then the other subnets. No search would take other weights, so they are
    not built. Without the other subnets, a first burst would be slimmed to subnets that torch runs.
    """
    await engine.core.expect(served, served.elastic.space.largest)
    if served.profile is None:
        return
    finder = served.finders.at(served.inputs.shapes(served.inputs.example()))
    found = ahead(served.elastic.space, front(finder, served.profile))
    others: list[Subnet] = []
    for choices, (best, *rest) in found.items():
        try:
            await variants.build(served, choices)
        except ModelNotReadyError:
            continue  # which has been logged
        await engine.core.expect(served, best)
        others += rest
    for subnet in others[:_MOST]:
        await engine.core.expect(served, subnet)

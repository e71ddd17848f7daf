"""What a server adds to a client's budget."""

from __future__ import annotations

import math
from typing import NamedTuple

from search.floors import Floors
from search.grid import Resident
from search.timing.timing import Timing


class Terms(NamedTuple):
    """What a server adds to a client's budget at this moment.

    Attributes:
        price: Quality given up for the time of the slowest subnet that can be the best one, as a
            part of a full batch; without a timing for the MACs of the largest. 0 to spend freely.
        timing: What time is predicted from; None where none is asked for.
        max_seconds: For running the request's inputs, together.
        pace: Seconds that a predicted second lately took.
        floors: What a promised quality counts; None for what is expected.
        resident: Values on the load axes, in the model's order, of which the weights are built; no
            other subnet is chosen. None for any.
    """

    price: float = 0.0
    timing: Timing | None = None
    max_seconds: float = math.inf
    pace: float = 1.0
    resident: Resident | None = None
    floors: Floors | None = None

    @property
    def max_microseconds(self) -> float:
        """What is left for running, as the timing counts."""
        return 1e6 * self.max_seconds / self.pace

"""What makes a simulated server slower than its steps."""

from __future__ import annotations

from bisect import bisect_right
from random import Random
from typing import NamedTuple


class Slowness:
    """Other programs take the cores in half of the time, in stretches of drawn length."""

    def __init__(self, factor: float, seed: int, mean_s: float = 0.5) -> None:
        """Draw nothing yet.

        Args:
            factor: Times what all takes meanwhile.
            seed: Of the stretches.
            mean_s: Of a stretch.
        """
        self._factor, self._mean_s = factor, mean_s
        self._rng = Random(seed)
        self._ends = [0.0]  # of stretches, the first one quiet

    def at(self, now: float) -> float:
        """Return what times are multiplied by."""
        while self._ends[-1] <= now:
            self._ends.append(self._ends[-1] + self._rng.expovariate(1 / self._mean_s))
        return self._factor if bisect_right(self._ends, now) % 2 == 0 else 1.0


class Around(NamedTuple):
    """What a server does beside running steps, in seconds; fitted to real servers.

    Attributes:
        read_s: For a request, from the socket to the queue.
        answer_s: For its answer.
        batch_s: For a batch.
        item_s: For each of its items.
        slows: That the worker loses for each one that the reader works meanwhile.
    """

    read_s: float = 0.0006
    answer_s: float = 0.0004
    batch_s: float = 0.0008
    item_s: float = 0.0001
    slows: float = 0.5

"""A grid priced in time, as several timings predict it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from search.grid import Grid
from search.knapsack.view import View
from search.timing.timing import Timing

_MAX_TIMINGS = 8  # kept, two for each number of items; a megabyte each at most


class TimedViews:
    """Of one grid and lengths, by timing."""

    def __init__(self, grid: Grid, lengths: Mapping[str, int]) -> None:
        """Price nothing yet.

        Args:
            grid: Whose rows are priced.
            lengths: Of each input that has one.
        """
        self._grid, self._lengths = grid, lengths
        self._timed: dict[Timing, TimedGrid] = {}

    def at(self, timing: Timing) -> TimedGrid:
        """Return what a timing predicts."""
        if timing not in self._timed:
            if len(self._timed) >= _MAX_TIMINGS:
                self._timed.clear()
            self._timed[timing] = TimedGrid(self._grid, timing, self._lengths)
        return self._timed[timing]


class TimedGrid:
    """What one timing predicts.

    Attributes:
        microseconds: Of each function.
    """

    def __init__(self, grid: Grid, timing: Timing, lengths: Mapping[str, int]) -> None:
        """Predict every function; see `TimedViews`."""
        self._grid = grid
        self.microseconds = grid.microseconds(timing, lengths)

    @cached_property
    def view(self) -> View:
        """The rows priced in time."""
        return View(self._grid, self._grid.times(self.microseconds))

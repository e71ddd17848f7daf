"""The search's reference: every subnet, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from search.budget import Budget
from search.find import Request
from search.grid import Grid
from search.quality.table import FloatArray
from search.timing.timing import Timing


class BruteForce:
    """All (row, columns) of a grid for a few tasks, priced and scored once."""

    def __init__(
        self,
        grid: Grid,
        request: Request,
        timing: Timing | None = None,
        lengths: Mapping[str, int] | None = None,
    ) -> None:
        depth = grid.own.shape[1]
        self.choices = np.array(list(itertools.product(range(depth), repeat=len(request.tasks))))
        self._tasks = request.tasks
        lengths = lengths or {}
        self._grid, self._lengths = grid, lengths
        self.macs = self._sums(grid, *grid.macs(grid.lengths.basis(lengths)))
        self.bytes = self._sums(grid, *grid.weights)
        self.retention = grid.retention[:, self.choices, self._tasks[None, :]]
        self.largest_macs = request.largest_macs
        self.seconds = np.zeros(self.macs.shape)
        if timing is not None:
            self.seconds = self._sums(grid, *grid.times(grid.microseconds(timing, lengths))) / 1e6

    def seconds_in(self, timing: Timing) -> FloatArray:
        """Return the seconds of every choice at another timing, shape [rows, choices]."""
        grid, lengths = self._grid, self._lengths
        return self._sums(grid, *grid.times(grid.microseconds(timing, lengths))) / 1e6

    def _sums(self, grid: Grid, shared: FloatArray, own: FloatArray) -> FloatArray:
        """Return the sum of what is shared and of one column a task, shape [rows, choices]."""
        meets = [bool(set(np.flatnonzero(own).tolist()) & {*self._tasks}) for own in grid.sets]
        of_tasks: FloatArray = own[:, self.choices, self._tasks[None, :]].sum(axis=-1)
        total: FloatArray = shared[:, meets].sum(axis=1)[:, None] + of_tasks
        return total

    def best_at_price(self, weights: FloatArray, budget: Budget, price: float) -> float:
        """Return the most quality less the price of the compute, under the ceiling in MACs."""
        ceiling, _ = budget.max_macs(self.largest_macs)
        worth = self.retention @ weights - price * self.macs / self.largest_macs
        return float(worth[self.macs <= ceiling].max())

    def best(
        self, weights: FloatArray, budget: Budget, max_seconds: float = np.inf
    ) -> tuple[float, float] | None:
        """Return the quality and MACs of the best subnet, or None if none is feasible."""
        quality = self.retention @ weights
        ceiling, _ = budget.max_macs(self.largest_macs)
        feasible = (self.macs <= ceiling) & (self.seconds <= max_seconds)
        if budget.bytes is not None:
            feasible &= self.bytes <= budget.bytes
        if budget.min_quality is not None:
            feasible &= quality >= budget.min_quality - 1e-9
        if not feasible.any():
            return None
        if budget.min_quality is not None:
            cheapest = int(self.macs[feasible].min())
            return float(quality[feasible & (self.macs == cheapest)].max()), cheapest
        best = float(quality[feasible].max())
        return best, int(self.macs[feasible & (quality == best)].min())

"""The search's reference: every subnet, one by one."""

from __future__ import annotations

import itertools

import numpy as np

from search.budget import Budget
from search.find import Request
from search.grid import Grid
from search.quality.table import FloatArray
from search.timing.profile import Timing


class BruteForce:
    """All (row, columns) of a grid for a few tasks, priced and scored once."""

    def __init__(self, grid: Grid, request: Request, timing: Timing | None = None) -> None:
        depth = grid.branch_macs.shape[1]
        choices = np.array(list(itertools.product(range(depth), repeat=len(request.tasks))))
        tasks = request.tasks[None, :]
        self.macs = grid.trunk_macs[:, None] + grid.branch_macs[:, choices, tasks].sum(axis=-1)
        self.retention = grid.retention[:, choices, tasks]
        self.largest_macs = request.largest_macs
        self.seconds = np.zeros(self.macs.shape)
        if timing is not None:
            times = grid.times(timing.microseconds(grid.functions) / 1e6)
            of_tasks = times.branch[:, choices, tasks].sum(axis=-1)
            self.seconds = times.trunk[:, None] + of_tasks

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
        if budget.min_quality is not None:
            feasible &= quality >= budget.min_quality - 1e-9
        if not feasible.any():
            return None
        if budget.min_quality is not None:
            cheapest = int(self.macs[feasible].min())
            return float(quality[feasible & (self.macs == cheapest)].max()), cheapest
        best = float(quality[feasible].max())
        return best, int(self.macs[feasible & (quality == best)].min())

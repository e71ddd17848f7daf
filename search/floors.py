"""What a quality that is promised counts: less than what is expected, where that is in doubt.

`min_quality` is kept by cells' floors; a quality is told by what is expected of them. A floor is
the expected retention, less what audits say is lost of it, less so many standard errors. Errors of
several tasks partly cancel: that of a mean with weights w is sqrt(sum w^2 e^2), which is
sqrt(sum w^2) times a task's where all have one. So each task's error counts by this factor, and
floors still add up. The largest subnet's floor is its own retention, 1: nothing is in doubt about
a score over itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.grid import Grid
from search.quality.cells import FloatArray

_MAX_KNOWN = 64  # arrays of floors that are kept
_STEP = 0.05  # weights are told apart by it, upwards


@dataclass(frozen=True, eq=False)
class Floors:
    """Of a model's cells; compared by identity.

    Attributes:
        errors: Standard errors that a floor is below what is expected.
        kept: Per task, what audits leave of the retention of the table's cells, shape [rows,
            columns]; None for all of it.
    """

    errors: float = 0.0
    kept: Mapping[str, FloatArray] | None = None

    def of(self, grid: Grid, weights: FloatArray) -> FloatArray:
        """Return the floor of each cell of a grid, shape [rows, columns, tasks].

        Args:
            grid: Of the model's table.
            weights: Of the asked tasks, summing to 1.
        """
        factor = self.factor(weights)
        key = id(grid), factor
        if key not in self._known:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            # What is kept holds the grid, so that its id is its own.
            self._known[key] = grid, self._of(grid, factor)
        return self._known[key][1]

    def factor(self, weights: FloatArray) -> float:
        """Return what each task's error counts, 0..1, rounded up."""
        return float(np.ceil(np.sqrt((weights**2).sum()) / _STEP - 1e-6) * _STEP)

    def _of(self, grid: Grid, factor: float) -> FloatArray:
        floors: FloatArray = grid.retention - self.errors * factor * grid.error
        if self.kept is not None:
            depth = grid.retention.shape[1]
            left = []
            for task in grid.tasks:
                own = self.kept[task][grid.numbers]
                left.append(own[:, np.minimum(range(depth), own.shape[1] - 1)])
            floors = floors - grid.retention * (1 - np.stack(left, axis=-1))
        return floors

    @cached_property
    def _known(self) -> dict[tuple[int, float], tuple[Grid, FloatArray]]:
        return {}

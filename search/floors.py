"""What a quality that is promised counts: less than what is expected, where that is in doubt.

`min_quality` is kept by cells' floors, a quality is told by what is expected of them. The largest
subnet's floor is its own retention, 1: nothing is in doubt about a score over itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.grid import Grid
from search.quality.cells import FloatArray

_MAX_GRIDS = 16  # of which the floors are kept


@dataclass(frozen=True, eq=False)
class Floors:
    """Of a model's cells; compared by identity.

    Attributes:
        kept: Per task, what audits leave of the retention of the table's cells, shape [rows,
            columns].
    """

    kept: Mapping[str, FloatArray]

    def of(self, grid: Grid) -> FloatArray:
        """Return the floor of each cell of a grid, shape [rows, columns, tasks]."""
        if id(grid) not in self._known:
            if len(self._known) >= _MAX_GRIDS:
                self._known.clear()
            # What is kept holds the grid, so that its id is its own.
            self._known[id(grid)] = grid, self._of(grid)
        return self._known[id(grid)][1]

    def _of(self, grid: Grid) -> FloatArray:
        depth = grid.retention.shape[1]
        parts = []
        for task in grid.tasks:
            own = self.kept[task][grid.numbers]
            parts.append(own[:, np.minimum(range(depth), own.shape[1] - 1)])
        floors: FloatArray = grid.retention * np.stack(parts, axis=-1)
        return floors

    @cached_property
    def _known(self) -> dict[int, tuple[Grid, FloatArray]]:
        return {}

"""A model's cells priced in one resource, and what of them depends on the asked tasks alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from search.grid import Grid, Priced
from search.knapsack.asked import Asked, hulls
from search.request import Request

_MAX_TASK_SETS = 32  # sets of asked tasks whose arrays are kept, a few hundred kilobytes each


class View:
    """The rows of a grid that can be the answer when one resource is limited.

    Attributes:
        grid: Without the rows that another beats in this resource.
    """

    def __init__(self, grid: Grid, priced: Priced) -> None:
        """Drop dominated rows and find the hulls.

        Args:
            grid: With every row.
            priced: Its cells.
        """
        self.grid, self._priced = grid.without_dominated(priced)
        columns = hulls(self._priced.branch, self.grid.retention)
        self._asked = lru_cache(_MAX_TASK_SETS)(
            lambda tasks: Asked.of(self._priced, self.grid.retention, np.array(tasks), columns)
        )

    def asked(self, request: Request) -> Asked:
        """Return the arrays of a request's tasks, kept for the next that asks for them."""
        return self._asked(tuple(request.tasks.tolist()))

"""A model's rows priced in one resource, and what of them depends on the asked tasks alone."""

from __future__ import annotations

from functools import cached_property

from search.grid import Grid, Priced
from search.knapsack.options import TaskOptions, hulls
from search.lengths import IntArray
from search.request import Request

_MAX_TASK_SETS = 32  # sets of asked tasks whose arrays are kept, a few hundred kilobytes each


class View:
    """The rows that can be the answer when one resource is limited.

    Attributes:
        grid: Of these rows.
        priced: Their cells in that resource.
    """

    def __init__(self, grid: Grid, priced: Priced) -> None:
        self.grid, self.priced = grid, priced
        self._options: dict[bytes, TaskOptions] = {}

    def options(self, request: Request) -> TaskOptions:
        """Return the arrays of a request's tasks, kept for the next that asks for them."""
        tasks = request.tasks
        if (key := tasks.tobytes()) not in self._options:
            if len(self._options) >= _MAX_TASK_SETS:
                self._options.clear()
            sharing = self.grid.sharing(tasks)
            self._options[key] = TaskOptions.of(
                self.priced, sharing, self.grid.retention, tasks, self._hulls
            )
        return self._options[key]

    @cached_property
    def _hulls(self) -> IntArray:
        return hulls(self.priced.own, self.grid.retention)

"""A model's rows priced in one resource, and what of them depends on the asked tasks alone."""

from __future__ import annotations

from functools import cached_property

from search.floors import Floors
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
        self._options: dict[tuple[bytes, Floors | None, float], TaskOptions] = {}

    def options(self, request: Request, floors: Floors | None = None) -> TaskOptions:
        """Return the arrays of a request's tasks, kept for the next that asks for them.

        Args:
            request: With the tasks.
            floors: That stand for the retention of cells; None for what is expected of them.
        """
        tasks = request.tasks
        factor = 0.0 if floors is None else floors.factor(request.weights)
        if (key := (tasks.tobytes(), floors, factor)) not in self._options:
            if len(self._options) >= _MAX_TASK_SETS:
                self._options.clear()
            sharing = self.grid.sharing(tasks)
            value, columns = self.grid.retention, self._hulls
            if floors is not None:
                value = floors.of(self.grid, request.weights)
                columns = hulls(self.priced.own, value)
            self._options[key] = TaskOptions.of(self.priced, sharing, value, tasks, columns)
        return self._options[key]

    @cached_property
    def _hulls(self) -> IntArray:
        return hulls(self.priced.own, self.grid.retention)

"""The options of a set of tasks as a multiple-choice knapsack, packed for `search.knapsack.solve`.

Source: Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem, Operations Research 27(3),
for the upper convex hulls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.grid import Priced
from search.lengths import IntArray
from search.quality.table import BoolArray, FloatArray

# Clearly falling slopes only: weighing a task must not turn two of its steps around.
_FALLING = 1 + 1e-9


@dataclass(frozen=True)
class TaskOptions:
    """Costs and values of every option, and of the steps along their upper convex hulls.

    A row's task starts at its cheapest option; each step replaces an option by the next on the hull
    of value over cost. Steps are numbered position x tasks + task; a hull with fewer positions than
    the others ends in steps of zero cost and value.

    Costs are in MACs, or in another resource.

    Attributes:
        base: Cost of each row without its tasks' own options, shape [rows].
        cost: Of each option, shape [rows, columns, tasks].
        value: Expected retention of each option, likewise.
        columns: Column at each hull position, shape [rows, positions, tasks].
        lowest_cost: Of each row with every task at its cheapest, shape [rows].
        highest_cost: Of each row with every task at its best, shape [rows].
        cost_range: Of all steps of a row together, 1 where there is none, shape [rows].
        ends: Value of each task at its cheapest in every row, then at its best in every row; shape
            [tasks, 2 x rows].
        each: 0, 1, ..., shape [tasks].
        step_cost: Shape [rows, steps].
        step_value: Shape [rows, steps].
        slope: Value per cost, 0 for the steps that do nothing; shape [rows, steps].
        cost_by_step: ``step_cost`` transposed in memory, shape [steps, rows].
        value_by_step: Likewise.
    """

    base: FloatArray
    cost: FloatArray
    value: FloatArray
    columns: IntArray
    lowest_cost: FloatArray
    highest_cost: FloatArray
    cost_range: FloatArray
    ends: FloatArray
    each: IntArray
    step_cost: FloatArray
    step_value: FloatArray
    slope: FloatArray
    cost_by_step: FloatArray
    value_by_step: FloatArray

    @classmethod
    def of(
        cls,
        priced: Priced,
        sharing: BoolArray,
        retention: FloatArray,
        tasks: IntArray,
        columns: IntArray,
    ) -> TaskOptions:
        """Pack the arrays of some tasks.

        Args:
            priced: Every cell in the resource that is limited.
            sharing: Sets of tasks that share steps and meet these tasks, shape [sets].
            retention: Expected, shape [rows, columns, tasks].
            tasks: Positions of the tasks, shape [tasks].
            columns: From `hulls`, for all tasks of the grid.
        """
        base = priced.shared[:, sharing].sum(axis=1)
        cost = np.ascontiguousarray(priced.own[..., tasks])
        value = np.ascontiguousarray(retention[..., tasks])
        columns = np.ascontiguousarray(columns[..., tasks])
        along_cost, along_value = _along(cost, columns), _along(value, columns)
        step_cost = np.diff(along_cost, axis=1).reshape(len(base), -1)
        step_value = np.diff(along_value, axis=1).reshape(len(base), -1)
        total = step_cost.sum(axis=1)
        slope = np.zeros_like(step_cost)
        np.divide(step_value, step_cost, out=slope, where=step_cost > 0)
        return cls(
            base=base,
            cost=cost,
            value=value,
            columns=columns,
            lowest_cost=base + along_cost[:, 0].sum(axis=1),
            highest_cost=base + along_cost[:, -1].sum(axis=1),
            cost_range=np.where(total > 0, total, 1.0),
            ends=np.ascontiguousarray(np.concatenate([along_value[:, 0], along_value[:, -1]]).T),
            each=np.arange(len(tasks)),
            step_cost=step_cost,
            step_value=step_value,
            slope=slope,
            cost_by_step=np.ascontiguousarray(step_cost.T),
            value_by_step=np.ascontiguousarray(step_value.T),
        )


def _along(values: FloatArray, columns: IntArray) -> FloatArray:
    """Return what stands in some columns, shape [rows, positions, tasks]."""
    if values.shape[1] == 1:
        return np.repeat(values, columns.shape[1], axis=1)
    return np.take_along_axis(values, columns, axis=1)


def hulls(cost: FloatArray, value: FloatArray) -> IntArray:
    """Find the upper convex hull of value over cost of every (row, task).

    Args:
        cost: Of each option, shape [rows, columns, tasks].
        value: Likewise.

    Returns:
        Column at each hull position, cheapest first, shape [rows, positions, tasks]; a shorter
        hull has its last repeated. There are at least two positions, so that there is a step.
    """
    rows, depth, tasks = cost.shape
    if depth == 1:
        return np.zeros((rows, 2, tasks), dtype=np.int64)
    # Columns first: each operation then runs through memory once.
    cost, value = (np.ascontiguousarray(array.swapaxes(0, 1)) for array in (cost, value))
    along = np.zeros((depth, rows, tasks), dtype=np.int64)
    is_next = cost == cost.min(axis=0)
    for at in along:
        # The best of those, and of equally good ones the cheapest.
        best = np.where(is_next, value, -np.inf).max(axis=0)
        is_next &= value == best
        least = np.where(is_next, cost, np.inf).min(axis=0)
        is_next &= cost == least
        for column in reversed(range(depth)):
            np.copyto(at, column, where=is_next[column])
        rise = value - best
        slope = np.divide(rise, cost - least, out=np.zeros_like(rise), where=rise > 0)
        steepest = slope.max(axis=0)
        # Those that are as steep, near enough; at the end of a hull the last one again.
        is_next &= steepest == 0
        is_next |= (slope > 0) & (slope * _FALLING >= steepest)
    return np.ascontiguousarray(along.swapaxes(0, 1))

"""A model's costs and retentions as arrays, laid out for the search.

Where every step serves either all tasks (the trunk) or exactly one (a branch), the cost of a subnet
is its row's trunk cost plus one cell per task, and its quality one cell per task too. Both then
factorise, and the search never has to enumerate subnets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.core import Cost, Elastic, Plan, Shape, Subnet, Value
from search.table import FloatArray, Score, Table

IntArray = NDArray[np.int64]


class ScoreArrays(NamedTuple):
    """`search.table.Score`, field by field, as arrays of shape [rows, columns, tasks]."""

    value: FloatArray
    retention: FloatArray
    n: IntArray
    stderr: FloatArray
    measured: NDArray[np.bool_]


class CostArrays(NamedTuple):
    """`models.core.Cost`, field by field, as arrays of one shape."""

    macs: IntArray
    weight_bytes: IntArray
    output_bytes: IntArray


@dataclass(frozen=True)
class Grid:
    """Everything the search knows about a model at one input shape.

    A task with fewer columns than the others has its last one repeated.

    Attributes:
        tasks: Names, in the model's order.
        rows: Choices on the shared axes, shape [rows].
        columns: Per task and column, choices on the task's own axes.
        trunk: Cost of the shared steps, shape [rows].
        branch: Cost of a task's own steps, shape [rows, columns, tasks].
        scores: What the table says of each cell.
        largest_trunk_macs: Of the largest subnet, whether its row is kept or not.
        largest_branch_macs: Likewise, shape [tasks].
    """

    tasks: tuple[str, ...]
    rows: tuple[Subnet, ...]
    columns: tuple[tuple[dict[str, Value], ...], ...]
    trunk: CostArrays
    branch: CostArrays
    scores: ScoreArrays
    largest_trunk_macs: int
    largest_branch_macs: IntArray

    def macs(self, row: int, columns: IntArray, tasks: IntArray) -> int:
        """Return the MACs of one subnet; ``columns`` and ``tasks`` have shape [asked tasks]."""
        return int(self.trunk.macs[row] + self.branch.macs[row, columns, tasks].sum())

    def cost(self, row: int, columns: IntArray, tasks: IntArray) -> Cost:
        """Return the cost of one subnet; ``columns`` and ``tasks`` have shape [asked tasks]."""
        return Cost(
            *(
                int(trunk[row] + branch[row, columns, tasks].sum())
                for trunk, branch in zip(self.trunk, self.branch, strict=True)
            )
        )

    def subnet(self, row: int, columns: IntArray, tasks: IntArray) -> Subnet:
        """Return the choices of a row and of one column per asked task."""
        choices = dict(self.rows[row])
        for column, task in zip(columns.tolist(), tasks.tolist(), strict=True):
            choices |= self.columns[task][column]
        return Subnet(choices)

    def scores_of(self, row: int, columns: IntArray, tasks: IntArray) -> dict[str, Score]:
        """Return the score of each asked task under one subnet."""
        cells = (array[row, columns, tasks].tolist() for array in self.scores)
        names = (self.tasks[task] for task in tasks.tolist())
        return dict(zip(names, map(Score, *cells), strict=True))


def build_grid(model: Elastic, shape: Shape, table: Table) -> Grid:
    """Price every cell of a table by planning it, and drop rows that can never be chosen.

    Raises:
        ValueError: If a step serves some tasks but not all, or the table does not score every task.
    """
    tasks = tuple(model.tasks)
    if missing := [task for task in tasks if task not in table.cells]:
        raise ValueError(f"the table has no scores for task {missing[0]!r}")
    depth = max(len(table.cells[task].columns) for task in tasks)
    repeated = {
        task: np.minimum(range(depth), len(table.cells[task].columns) - 1) for task in tasks
    }
    columns = tuple(
        tuple(dict(table.cells[task].columns[c]) for c in repeated[task]) for task in tasks
    )
    trunk = _empty_costs(len(table.rows))
    branch = _empty_costs(len(table.rows), depth, len(tasks))
    for r, row in enumerate(table.rows):
        for c in range(depth):
            choices = [item for column in columns for item in column[c].items()]
            shared, own = _split(model.plan(row | dict(choices), shape), tasks)
            _put(trunk, r, shared)
            for t, cost in enumerate(own):
                _put(branch, (r, c, t), cost)
    cells = table.cells

    def stack(pick: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
        return np.stack([pick(task)[:, repeated[task]] for task in tasks], axis=-1)

    scores = ScoreArrays(
        value=stack(lambda task: cells[task].value),
        retention=stack(table.retention),
        n=stack(lambda task: cells[task].n),
        stderr=stack(lambda task: cells[task].stderr),
        measured=stack(lambda task: cells[task].measured),
    )
    keep = _undominated(trunk.macs, branch.macs, scores.retention)
    return Grid(
        tasks=tasks,
        rows=tuple(table.rows[r] for r in keep),
        columns=columns,
        trunk=CostArrays._make(array[keep] for array in trunk),
        branch=CostArrays._make(array[keep] for array in branch),
        scores=ScoreArrays._make(array[keep] for array in scores),
        largest_trunk_macs=int(trunk.macs[-1]),
        largest_branch_macs=branch.macs[-1, -1],
    )


def _empty_costs(*shape: int) -> CostArrays:
    return CostArrays(*(np.zeros(shape, dtype=np.int64) for _ in CostArrays._fields))


def _put(arrays: CostArrays, index: int | tuple[int, ...], cost: Cost) -> None:
    arrays.macs[index] = cost.macs
    arrays.weight_bytes[index] = cost.weight_bytes
    arrays.output_bytes[index] = cost.output_bytes


def _split(plan: Plan, tasks: tuple[str, ...]) -> tuple[Cost, list[Cost]]:
    """Return the cost of the steps that serve all tasks, and of those that serve each alone."""
    served: dict[object, set[str]] = {step: set() for step in plan}
    for leaf in plan:
        if leaf.emits in tasks:
            step = leaf
            while True:
                served[step].add(leaf.emits)
                if step.after is None:
                    break
                step = step.after
    shared, own = Cost(), {task: Cost() for task in tasks}
    for step in plan:
        names = served[step]
        if len(names) == 1:
            own[next(iter(names))] += step.cost
        elif len(names) == len(tasks):
            shared += step.cost
        else:
            raise ValueError(f"step {step.key} serves {sorted(names)}: neither all tasks nor one")
    return shared, list(own.values())


def _undominated(trunk: IntArray, branch: IntArray, retention: FloatArray) -> list[int]:
    """Return the rows that no other beats or equals in the cost and retention of every cell.

    Such a row is never needed, whatever the tasks, preferences and budget.
    """
    rows = len(trunk)
    cost = np.concatenate([trunk[:, None], branch.reshape(rows, -1)], axis=1)
    value = retention.reshape(rows, -1)
    keep: list[int] = []
    for r in range(rows):
        as_good = (cost <= cost[r]).all(axis=1) & (value >= value[r]).all(axis=1)
        better = (cost < cost[r]).any(axis=1) | (value > value[r]).any(axis=1)
        better |= np.arange(rows) < r  # of equal rows the first stays
        if not (as_good & better).any():
            keep.append(r)
    return keep

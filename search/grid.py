"""A model's costs and retentions as arrays, laid out for the search.

Where every step serves either all tasks (the trunk) or exactly one (a branch), the cost of a subnet
is its row's trunk cost plus one cell per task, and its quality one cell per task too. Both then
factorise, and the search never has to enumerate subnets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from models.core import Cost, Elastic, Plan, Shape, Subnet, Value
from search.table import FloatArray, Score, Table

IntArray = NDArray[np.int64]
_FIELDS = [field.name for field in fields(Cost)]
_MACS = _FIELDS.index("macs")
_figures = attrgetter(*_FIELDS)
_NOTHING: Mapping[str, Value] = MappingProxyType({})


@dataclass(frozen=True)
class Grid:
    """Everything the search knows about a model at one input shape.

    A task with fewer columns than the others has its last one repeated.

    Attributes:
        tasks: Names, in the model's order.
        rows: Choices on the shared axes, shape [rows].
        columns: Per task and column, choices on the task's own axes.
        trunk: Fields of the `Cost` of the shared steps, shape [rows, fields].
        branch: Likewise of a task's own steps, shape [rows, columns, tasks, fields].
        retention: Expected, shape [rows, columns, tasks].
        scores: What the table says, by row, task and column.
        largest_trunk_macs: Of the largest subnet, whether its row is kept or not.
        largest_branch_macs: Likewise, shape [tasks].
    """

    tasks: tuple[str, ...]
    rows: tuple[Subnet, ...]
    columns: tuple[tuple[dict[str, Value], ...], ...]
    trunk: IntArray
    branch: IntArray
    retention: FloatArray
    scores: tuple[tuple[tuple[Score, ...], ...], ...]
    largest_trunk_macs: int
    largest_branch_macs: IntArray

    @property
    def trunk_macs(self) -> IntArray:
        """MACs of the shared steps, shape [rows]."""
        return self.trunk[..., _MACS]

    @property
    def branch_macs(self) -> IntArray:
        """MACs of a task's own steps, shape [rows, columns, tasks]."""
        return self.branch[..., _MACS]

    def describe(
        self, row: int, columns: IntArray, tasks: IntArray
    ) -> tuple[Subnet, Cost, dict[str, Score]]:
        """Return one subnet, its cost, and the score of each asked task.

        Args:
            row: Its row.
            columns: One per asked task, shape [asked tasks].
            tasks: Positions of the asked tasks, shape [asked tasks].
        """
        choices: dict[str, Value] = {}
        scores: dict[str, Score] = {}
        of_row = self.scores[row]
        for task, column in zip(tasks.tolist(), columns.tolist(), strict=True):
            choices.update(self.columns[task][column])
            scores[self.tasks[task]] = of_row[task][column]
        cost = self.trunk[row] + self.branch[row][columns, tasks].sum(axis=0)
        return self.rows[row] | choices, Cost(*cost.tolist()), scores


def build_grid(
    model: Elastic, shape: Shape, table: Table, fixed: Mapping[str, Value] = _NOTHING
) -> Grid:
    """Price the cells of a table by planning them, and drop rows that can never be chosen.

    Args:
        model: Plans.
        shape: Of one input.
        table: Of the model.
        fixed: Values on shared axes; rows with others are left out. What is compared with the
            largest subnet is still compared with that of the whole model.

    Raises:
        ValueError: If a step serves some tasks but not all, the table does not score every task, or
            no row has the fixed values.
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
    choices = [
        Subnet(pair for column in columns for pair in column[c].items()) for c in range(depth)
    ]
    allowed = np.array(
        [r for r, row in enumerate(table.rows) if all(row.get(a) == v for a, v in fixed.items())],
        dtype=np.int64,
    )
    if not len(allowed):
        raise ValueError(f"no row has the values {dict(fixed)}")
    trunk = np.zeros((len(table.rows), len(_FIELDS)), dtype=np.int64)
    branch = np.zeros((len(table.rows), depth, len(tasks), len(_FIELDS)), dtype=np.int64)
    for r in {*allowed.tolist(), len(table.rows) - 1}:  # the last is what all are compared with
        for c, own in enumerate(choices):
            shared, costs = _split(model.plan(table.rows[r] | own, shape), tasks)
            trunk[r] = _figures(shared)
            branch[r, c] = [_figures(cost) for cost in costs]
    retention = np.stack([table.retention(task)[:, repeated[task]] for task in tasks], axis=-1)
    macs = trunk[allowed, _MACS], branch[allowed][..., _MACS]
    keep = allowed[_undominated(*macs, retention[allowed])]
    scores = (_scores(table, task, keep, repeated[task]) for task in tasks)
    return Grid(
        tasks=tasks,
        rows=tuple(table.rows[r] for r in keep),
        columns=columns,
        trunk=trunk[keep],
        branch=branch[keep],
        retention=retention[keep],
        scores=tuple(zip(*scores, strict=True)),
        largest_trunk_macs=int(trunk[-1, _MACS]),
        largest_branch_macs=branch[-1, -1, :, _MACS],
    )


def _scores(table: Table, task: str, rows: IntArray, columns: IntArray) -> list[tuple[Score, ...]]:
    """Return one task's scores by row and column, as the objects that answers hand on."""
    cells = table.cells[task]
    arrays = (cells.value, cells.expected, table.retention(task), cells.n, cells.stderr)
    lists = (array[rows][:, columns].tolist() for array in (*arrays, cells.measured))
    return [tuple(map(Score, *row)) for row in zip(*lists, strict=True)]


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
    parts = (trunk[:, None], branch.reshape(rows, -1), -retention.reshape(rows, -1))
    worth = np.concatenate(parts, axis=1)  # the less, the better
    keep: list[int] = []
    for r in range(rows):
        as_good = np.flatnonzero((worth <= worth[r]).all(axis=1))
        # Of equal rows the first stays.
        if not any(other < r or (worth[other] < worth[r]).any() for other in as_good.tolist()):
            keep.append(r)
    return keep

"""A model's costs and retentions as arrays, laid out for the search.

Where every step serves either all tasks (the trunk) or exactly one (a branch), the cost of a subnet
is its row's trunk cost plus one cell per task, and its quality one cell per task too. Both then
factorise, and the search never has to enumerate subnets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.core import Cost, Plan, Shape, Step
from models.elastic import Elastic
from models.space import Subnet, Value
from search.quality.table import FloatArray, Score, Table
from search.timing.profile import Function, function_of

IntArray = NDArray[np.int64]
_FIELDS = [field.name for field in fields(Cost)]
_MACS = _FIELDS.index("macs")
_fields_of = attrgetter(*_FIELDS)
_NOTHING: Mapping[str, Value] = MappingProxyType({})


class Priced(NamedTuple):
    """Every cell in one resource: MACs, or microseconds.

    Attributes:
        trunk: Of the shared steps, shape [rows].
        branch: Of a task's own steps, shape [rows, columns, tasks].
    """

    trunk: FloatArray
    branch: FloatArray


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
        functions: What the steps of all rows compute, each once.
        trunk_functions: Positions of those of the shared steps, -1 for none, shape [rows, steps].
        branch_functions: Likewise of a task's own, shape [rows, columns, tasks, steps].
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
    functions: tuple[Function, ...]
    trunk_functions: IntArray
    branch_functions: IntArray
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

    @property
    def macs(self) -> Priced:
        """The cells in MACs."""
        return Priced(self.trunk_macs.astype(np.float64), self.branch_macs.astype(np.float64))

    def times(self, of_function: FloatArray) -> Priced:
        """Return the cells in the unit of ``of_function``, shape [functions]."""
        known = np.append(of_function, 0.0)  # what stands at -1 takes no time
        return Priced(
            known[self.trunk_functions].sum(axis=-1), known[self.branch_functions].sum(axis=-1)
        )

    def without_dominated(self, priced: Priced) -> tuple[Grid, Priced]:
        """Drop the rows that another beats or equals in price and retention, in every cell.

        Such a row is never needed, whatever the tasks, preferences and budget.
        """
        keep = _undominated(*priced, self.retention)
        of_rows = ("trunk", "branch", "retention", "trunk_functions", "branch_functions")
        part = replace(
            self,
            rows=tuple(self.rows[r] for r in keep),
            scores=tuple(self.scores[r] for r in keep),
            **{name: getattr(self, name)[keep] for name in of_rows},
        )
        return part, Priced(*(array[keep] for array in priced))

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
    """Price the cells of a table by planning them.

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
    rows = [r for r, row in enumerate(table.rows) if all(row.get(a) == v for a, v in fixed.items())]
    if not rows:
        raise ValueError(f"no row has the values {dict(fixed)}")
    numbers: dict[Function, int] = {}
    splits = [
        [_split(model.plan(table.rows[r] | own, shape), tasks) for own in choices] for r in rows
    ]
    largest, own = _split(model.plan(table.rows[-1] | choices[-1], shape), tasks)
    retention = np.stack([table.retention(task)[:, repeated[task]] for task in tasks], axis=-1)
    scores = (_scores(table, task, rows, repeated[task]) for task in tasks)
    return Grid(
        tasks=tasks,
        rows=tuple(table.rows[r] for r in rows),
        columns=columns,
        trunk=np.array([_figures(of_row[0][0]) for of_row in splits]),
        branch=np.array(
            [[[_figures(steps) for steps in branch] for _, branch in of_row] for of_row in splits]
        ),
        retention=retention[rows],
        scores=tuple(zip(*scores, strict=True)),
        trunk_functions=_numbered([of_row[0][0] for of_row in splits], numbers),
        branch_functions=_numbered(
            [steps for of_row in splits for _, branch in of_row for steps in branch], numbers
        ).reshape(len(rows), depth, len(tasks), -1),
        functions=tuple(numbers),
        largest_trunk_macs=_figures(largest)[_MACS],
        largest_branch_macs=np.array([_figures(steps)[_MACS] for steps in own]),
    )


def _figures(steps: Iterable[Step]) -> tuple[int, ...]:
    """Return the fields of the summed cost of steps."""
    figures = [_fields_of(step.cost) for step in steps]
    return tuple(map(sum, zip(*figures, strict=True))) if figures else (0,) * len(_FIELDS)


def _numbered(paths: Sequence[Sequence[Step]], numbers: dict[Function, int]) -> IntArray:
    """Return the number of each step's function, new ones added; shape [paths, steps]."""
    found = np.full((len(paths), max(map(len, paths))), -1, dtype=np.int64)
    for i, path in enumerate(paths):
        for j, step in enumerate(path):
            found[i, j] = numbers.setdefault(function_of(step), len(numbers))
    return found


def _scores(
    table: Table, task: str, rows: Sequence[int], columns: IntArray
) -> list[tuple[Score, ...]]:
    """Return one task's scores by row and column, as the objects that answers hand on."""
    cells = table.cells[task]
    arrays = (cells.value, cells.expected, table.retention(task), cells.n, cells.stderr)
    lists = (array[rows][:, columns].tolist() for array in (*arrays, cells.measured))
    return [tuple(map(Score, *row)) for row in zip(*lists, strict=True)]


def _split(plan: Plan, tasks: tuple[str, ...]) -> tuple[list[Step], list[list[Step]]]:
    """Return the steps that serve all tasks, and those that serve each alone."""
    served: dict[Step, set[str]] = {step: set() for step in plan}
    for leaf in plan:
        if leaf.emits in tasks:
            step: Step | None = leaf
            while step is not None:
                served[step].add(leaf.emits)
                step = step.after
    shared: list[Step] = []
    own: dict[str, list[Step]] = {task: [] for task in tasks}
    for step, names in served.items():
        if len(names) == len(tasks) > 1:
            shared.append(step)
        elif len(names) == 1:
            own[next(iter(names))].append(step)
        else:
            raise ValueError(f"step {step.key} serves {sorted(names)}: neither all tasks nor one")
    return shared, list(own.values())


def _undominated(trunk: FloatArray, branch: FloatArray, retention: FloatArray) -> list[int]:
    """Return the rows that no other beats or equals in the cost and retention of every cell."""
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

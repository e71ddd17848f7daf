"""Plans the cells of a table and sorts what they cost by the tasks that need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from models.core import Plan, Shape, Step
from models.elastic import Elastic
from models.space import Subnet
from models.variants import choices_of, load_axes, loaded
from search.grid import Grid
from search.lengths import IntArray, Lengths
from search.quality.table import BoolArray, FloatArray, Score, Table, given_axes, inputs_of
from search.timing.profile import Function, function_of

_MAX_MACS = 2**53  # beyond, floats leave whole numbers out
_CHECKED_ROWS = 8  # planned once more, at the greatest lengths
_Timed: TypeAlias = tuple[Function, tuple[str, ...]]  # and the inputs that it depends on


class _Cell(NamedTuple):
    """A row with one column of every task, by the sets of tasks that need its steps.

    Sets are whole numbers, a bit for each task.

    Attributes:
        steps: Of each set that needs any.
        macs: Of the same steps together, at each of the shapes planned for.
        bytes: Of their weights together.
    """

    steps: dict[int, list[Step]]
    macs: dict[int, list[int]]
    bytes: dict[int, int]


def build_grid(model: Elastic, table: Table, names: Sequence[str] | None = None) -> Grid:
    """Price the cells of a table by planning them.

    Args:
        model: Plans.
        table: Of the model.
        names: Of the inputs that are there; None for all.

    Raises:
        ValueError: If the table does not score every task or has no row for these inputs; a step
            that several tasks need depends on an axis of one of them; what steps run depends on
            lengths; or what they cost is no polynomial of degree two in each.
    """
    _check(model, table)
    tasks, axes = tuple(model.tasks), model.space.axes
    names = tuple(model.inputs) if names is None else tuple(names)
    rows = [r for r, row in enumerate(table.rows) if inputs_of(axes, row) in (None, names)]
    if not rows:
        raise ValueError(f"the table has no row for the inputs {list(names)}")
    depth = max(len(table.cells[task].columns) for task in tasks)
    numbers = {task: np.minimum(range(depth), len(table.cells[task].columns) - 1) for task in tasks}
    columns = tuple(
        tuple(dict(table.cells[task].columns[c]) for c in own) for task, own in numbers.items()
    )
    own = [Subnet(pair for task in columns for pair in task[c].items()) for c in range(depth)]
    lengths = Lengths.of(model.inputs, names)
    chosen = [[table.rows[r] | columns for columns in own] for r in rows]
    cells = _planned(model, chosen, lengths)
    largest = cells[rows.index(int(table.full_rows[rows[0]]))][-1]
    load = [choices_of(model.space, table.rows[r]) for r in rows]
    loads = tuple(dict.fromkeys(load))
    return Grid(
        tasks=tasks,
        lengths=lengths,
        rows=tuple(table.rows[r] for r in rows),
        columns=columns,
        retention=np.stack([table.retention(t)[rows][:, c] for t, c in numbers.items()], axis=-1),
        error=np.stack([_errors(table, t)[rows][:, c] for t, c in numbers.items()], axis=-1),
        scores=tuple(zip(*(_scores(table, t, rows, c) for t, c in numbers.items()), strict=True)),
        load_axes=tuple(axis.name for axis in load_axes(model.space)),
        numbers=np.array(rows),
        load=np.array([loads.index(values) for values in load]),
        loads=loads,
        loaded=tuple(loaded(model.space).values()),
        **_sums(cells, largest, len(tasks), lengths)._asdict(),
    )


def _planned(
    model: Elastic, subnets: Sequence[Sequence[Subnet]], lengths: Lengths
) -> list[list[_Cell]]:
    """Plan every row and column; refuse what the grid's arrays could not say."""
    tasks, planned = tuple(model.tasks), lengths.planned()
    cells = [[_cell(model, subnet, tasks, planned) for subnet in row] for row in subnets]
    for row in cells:
        _check_shared(row, tasks)
    for r in np.unique(np.linspace(0, len(subnets) - 1, _CHECKED_ROWS).astype(int)):
        for subnet in {subnets[r][0], subnets[r][-1]}:
            _check_lengths(model, subnet, lengths)
    return cells


class _Sums(NamedTuple):
    """Costs and functions of steps by the tasks that need them; see `Grid`."""

    sets: BoolArray
    shared: IntArray
    own: IntArray
    shared_bytes: IntArray
    own_bytes: IntArray
    functions: tuple[Function, ...]
    depends: FloatArray
    shared_functions: IntArray
    own_functions: IntArray
    largest_shared: IntArray
    largest_own: IntArray


def _sums(
    cells: Sequence[Sequence[_Cell]], largest: _Cell, num_tasks: int, lengths: Lengths
) -> _Sums:
    alone = [1 << i for i in range(num_tasks)]
    together = sorted({mask for row in cells for mask in row[0].steps} - set(alone))
    sets = [[mask >> i & 1 for i in range(num_tasks)] for mask in together]
    first = [row[:1] for row in cells]  # what tasks share is the same in every column
    timed: dict[_Timed, int] = {}
    shared_functions = _numbered(first, together, timed)[:, 0]
    own_functions = _numbered(cells, alone, timed)
    depends = [[name in inputs for name in lengths.names] for _, inputs in timed]
    points = len(lengths.planned())
    return _Sums(
        sets=np.array(sets, dtype=np.bool_).reshape(-1, num_tasks),
        shared=lengths.coefficients(_macs(first, together, points)[:, 0]),
        own=lengths.coefficients(_macs(cells, alone, points)),
        shared_bytes=_bytes(first, together)[:, 0],
        own_bytes=_bytes(cells, alone),
        functions=tuple(function for function, _ in timed),
        depends=np.array(depends, dtype=np.float64),
        shared_functions=shared_functions,
        own_functions=own_functions,
        largest_shared=lengths.coefficients(_macs([[largest]], together, points)[0, 0]),
        largest_own=lengths.coefficients(_macs([[largest]], alone, points)[0, 0]),
    )


def _check(model: Elastic, table: Table) -> None:
    """Refuse a table that lacks something, and axes that nothing can be done with."""
    if missing := [task for task in model.tasks if task not in table.cells]:
        raise ValueError(f"the table has no scores for task {missing[0]!r}")
    axes = model.space.axes
    for axis in axes:
        if axis.task is not None and (axis.kind == "given" or axis.when == "load"):
            raise ValueError(f"axis {axis.name!r} must not belong to a task: {axis.task!r}")
    if table.given != given_axes(axes):
        raise ValueError(f"the table's given={list(table.given)} must be {list(given_axes(axes))}")


def _cell(
    model: Elastic, subnet: Subnet, tasks: Sequence[str], planned: Sequence[Mapping[str, Shape]]
) -> _Cell:
    """Plan a subnet for some shapes and sort its steps."""
    plan, *others = (model.plan(subnet, shapes) for shapes in planned)
    needed = _needed(plan, tasks)
    steps: dict[int, list[Step]] = {}
    macs: dict[int, list[int]] = {}
    held: dict[int, int] = {}
    for step, *again in zip(plan, *others, strict=True):
        if any(one.identity != step.identity for one in again):
            raise ValueError(f"step {step.key}: what it is depends on the lengths of inputs")
        mask = needed[step.identity]
        steps.setdefault(mask, []).append(step)
        held[mask] = held.get(mask, 0) + step.cost.bytes
        known = macs.setdefault(mask, [0] * len(planned))
        for point, one in enumerate((step, *again)):
            known[point] += one.cost.macs
    return _Cell(steps, macs, held)


def _needed(plan: Plan, tasks: Sequence[str]) -> dict[bytes, int]:
    """Return for each step the set of tasks whose answers need it."""
    needed = {step.identity: 0 for step in plan}
    for i, task in enumerate(tasks):
        needed[plan.answers[task].identity] |= 1 << i
    for step in reversed(plan.steps):  # what takes a step comes after it
        for operand in step.operands:
            needed[operand.identity] |= needed[step.identity]
    return needed


def _check_shared(row: Sequence[_Cell], tasks: Sequence[str]) -> None:
    """Refuse steps that several tasks need and that differ between columns of a row."""
    found = [
        {
            (step.identity, mask): step
            for mask, steps in cell.steps.items()
            for step in steps
            if mask & (mask - 1)
        }
        for cell in row
    ]
    for other in found[1:]:
        if other.keys() != found[0].keys():
            identity, mask = sorted(other.keys() ^ found[0].keys())[0]
            step = (other | found[0])[identity, mask]
            names = [task for i, task in enumerate(tasks) if mask >> i & 1]
            raise ValueError(
                f"step {step.key} is needed by {names} and depends on an axis of one of them"
            )


def _check_lengths(model: Elastic, subnet: Subnet, lengths: Lengths) -> None:
    """Compare the cost of each step at the greatest lengths with what the polynomials say."""
    plans = [model.plan(subnet, shapes) for shapes in lengths.planned()]
    macs = np.array([[step.cost.macs for step in plan] for plan in plans], dtype=np.int64).T
    expected = lengths.coefficients(macs) @ lengths.basis(lengths.longest)
    longest = model.plan(subnet, lengths.at(lengths.longest))
    if longest.cost.macs > _MAX_MACS:
        raise ValueError(f"{subnet}: {longest.cost.macs} MACs are too many to count exactly")
    for step, expects in zip(longest, expected.tolist(), strict=True):
        if step.cost.macs != expects:
            raise ValueError(
                f"step {step.key}: its cost is no polynomial of degree two in the length of each "
                f"input: {step.cost.macs} MACs at {dict(lengths.longest)}, not {expects}"
            )


def _macs(cells: Sequence[Sequence[_Cell]], masks: Sequence[int], points: int) -> IntArray:
    """Return the MACs of each set of tasks; shape [rows, columns, sets, points]."""
    nothing = [0] * points
    found = [[[cell.macs.get(mask, nothing) for mask in masks] for cell in row] for row in cells]
    shape = (len(cells), len(cells[0]), len(masks), points)
    return np.array(found, dtype=np.int64).reshape(shape)


def _bytes(cells: Sequence[Sequence[_Cell]], masks: Sequence[int]) -> IntArray:
    """Return the bytes of weights of each set of tasks; shape [rows, columns, sets]."""
    found = [[[cell.bytes.get(mask, 0) for mask in masks] for cell in row] for row in cells]
    return np.array(found, dtype=np.int64).reshape(len(cells), len(cells[0]), len(masks))


def _numbered(
    cells: Sequence[Sequence[_Cell]], masks: Sequence[int], timed: dict[_Timed, int]
) -> IntArray:
    """Return the number of each step's function, new ones added.

    Returns:
        Shape [rows, columns, sets, steps]; -1 where a set needs fewer steps.
    """
    most = max(
        (len(cell.steps.get(m, ())) for row in cells for cell in row for m in masks), default=0
    )
    found = np.full((len(cells), len(cells[0]), len(masks), most), -1, dtype=np.int64)
    for r, row in enumerate(cells):
        for c, cell in enumerate(row):
            for m, mask in enumerate(masks):
                for s, step in enumerate(cell.steps.get(mask, ())):
                    key = (function_of(step), step.inputs)
                    found[r, c, m, s] = timed.setdefault(key, len(timed))
    return found


def _errors(table: Table, task: str) -> FloatArray:
    """Return the errors of a task's retentions, 0 where they are not known."""
    return np.nan_to_num(table.cells[task].known_error, nan=0.0)


def _scores(
    table: Table, task: str, rows: Sequence[int], columns: IntArray
) -> list[tuple[Score, ...]]:
    """Return one task's scores by row and column, as the objects that answers hand on."""
    cells = table.cells[task]
    arrays = (cells.value, cells.expected, table.retention(task), cells.n, cells.stderr)
    lists = (
        array[rows][:, columns].tolist()
        for array in (*arrays, cells.measured, _errors(table, task))
    )
    return [tuple(map(Score, *row)) for row in zip(*lists, strict=True)]

"""The score of every (task, path), measured once and kept with the checkpoint.

A task's score depends only on the steps that its answer needs. So the table factorises: it has one
row per choice on the axes that all tasks share and, per task, one column per choice on the task's
own axes. A subnet's scores are one cell per task.

Scores are compared as *retention*: the part that is kept of the largest subnet's score for the same
inputs, and where less is better that subnet's error over the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from models.files import reading, replacing
from models.space import Axis, Space, Subnet, Value
from models.tasks import Metric, Task
from search.quality.cells import BoolArray, Cells, FloatArray, Score

__all__ = [
    "TABLE",
    "BoolArray",
    "Cells",
    "FloatArray",
    "Score",
    "Table",
    "TableError",
    "given_axes",
    "inputs_of",
]

TABLE = "table.safetensors"
_ALL = slice(None)
_KINDS = {  # of numbers, by entry
    "rows": "u",
    "columns": "u",
    "value": "f",
    "smoothed": "f",
    "stderr": "f",
    "agreement": "f",
    "error": "f",
    "n": "iu",
    "measured": "b",
}
_LEAST: Mapping[Metric, float] = {"spearman": -1.0}  # of all others 0
_MAX_N = 2**31 - 1


class TableError(ValueError):
    """A table does not belong to the model. The message names the entry."""


@dataclass(frozen=True)
class Table:
    """Scores of a model's subnets.

    Attributes:
        rows: Choices on the axes that belong to no single task; the largest one last.
        cells: Per task, in the model's order.
        given: Names of the axes that say which inputs are there.
    """

    rows: tuple[Subnet, ...]
    cells: Mapping[str, Cells]
    given: tuple[str, ...] = ()

    def part(self, rows: slice = _ALL, columns: slice = _ALL) -> Table:
        """Return some of the rows, and of every task's columns."""
        cells = {task: own.part(rows, columns) for task, own in self.cells.items()}
        return replace(self, rows=self.rows[rows], cells=cells)

    @cached_property
    def full_rows(self) -> NDArray[np.int64]:
        """Of each row, the largest one for the same inputs, shape [rows].

        Raises:
            ValueError: If that is not in the table.
        """
        number = {row: r for r, row in enumerate(self.rows)}
        full = [self.rows[-1] | {axis: row[axis] for axis in self.given} for row in self.rows]
        if missing := [row for row in full if row not in number]:
            raise ValueError(f"rows lack {missing[0]}, the largest one for these inputs")
        return np.array([number[row] for row in full])

    def retention(self, task: str) -> FloatArray:
        """Return what is kept of the largest subnet's expected score, shape [rows, columns]."""
        cells = self.cells[task]
        full = cells.expected[self.full_rows, -1][:, None]
        kept: FloatArray = full / cells.expected if cells.lower_is_better else cells.expected / full
        return kept

    def at(self, task: str, row: int, column: int) -> Score:
        """Return one cell."""
        cells = self.cells[task]
        return Score(
            float(cells.value[row, column]),
            float(cells.expected[row, column]),
            float(self.retention(task)[row, column]),
            int(cells.n[row, column]),
            float(cells.stderr[row, column]),
            bool(cells.measured[row, column]),
            float(np.nan_to_num(cells.known_error[row, column])),
        )

    def locate(self, task: str, subnet: Mapping[str, Value]) -> tuple[int, int] | None:
        """Return the row and column of a task's cell for a subnet; None where there is none."""
        places, columns = self._places[task]
        row = places.get(Subnet({axis: subnet[axis] for axis in self.rows[-1]}))
        own = self.cells[task].columns[-1]
        column = columns.get(Subnet({axis: subnet[axis] for axis in own if axis in subnet}))
        return None if row is None or column is None else (row, column)

    @cached_property
    def _places(self) -> Mapping[str, tuple[Mapping[Subnet, int], Mapping[Subnet, int]]]:
        rows = {row: r for r, row in enumerate(self.rows)}
        return {
            task: (rows, {column: c for c, column in enumerate(own.columns)})
            for task, own in self.cells.items()
        }

    def save(self, path: Path, space: Space) -> None:
        """Write the table; choices are stored as positions on the axes of ``space``."""
        tensors: dict[str, NDArray[Any]] = {
            "rows": _positions(self.rows, space.select({None}).axes)
        }
        for task, cells in self.cells.items():
            tensors[f"columns.{task}"] = _positions(cells.columns, space.select({task}).axes)
            tensors[f"value.{task}"] = cells.value.astype(np.float32)
            tensors[f"n.{task}"] = cells.n.astype(np.int32)
            tensors[f"stderr.{task}"] = cells.stderr.astype(np.float32)
            tensors[f"measured.{task}"] = cells.measured
            if cells.smoothed is not None:
                tensors[f"smoothed.{task}"] = cells.smoothed.astype(np.float32)
            if cells.agreement is not None:
                tensors[f"agreement.{task}"] = cells.agreement.astype(np.float32)
            if cells.error is not None:
                tensors[f"error.{task}"] = cells.error.astype(np.float32)
        with replacing(path) as part:
            save_file(tensors, part)

    @classmethod
    def load(cls, path: Path, space: Space, tasks: Mapping[str, Task]) -> Table:
        """Read a table and check that it belongs to the space and tasks.

        Raises:
            TableError: If the file is none, or an entry is missing, of another shape or type, not
                finite, out of its metric's range, or names a choice that the space does not have;
                or if the last cell is not the largest subnet, or the largest one for some inputs
                is missing.
        """
        with reading(path, TableError):
            tensors = load_file(path)
            table = cls._of(tensors, path, space, tasks)
            table._check(path, space, tasks)
        return table

    @classmethod
    def _of(
        cls,
        tensors: Mapping[str, NDArray[Any]],
        path: Path,
        space: Space,
        tasks: Mapping[str, Task],
    ) -> Table:
        for name, tensor in tensors.items():
            kind = name.partition(".")[0]
            if kind in _KINDS and tensor.dtype.kind not in _KINDS[kind]:
                raise TableError(f"{path}: {name} has the dtype {tensor.dtype}")
        try:
            rows = _choices(tensors["rows"], space.select({None}).axes)
            cells = {}
            for name, task in tasks.items():
                columns = _choices(tensors[f"columns.{name}"], space.select({name}).axes)
                smoothed = tensors.get(f"smoothed.{name}")
                agreement = tensors.get(f"agreement.{name}")
                error = tensors.get(f"error.{name}")
                cells[name] = Cells(
                    columns,
                    tensors[f"value.{name}"].astype(np.float64),
                    tensors[f"n.{name}"].astype(np.int64),
                    tensors[f"stderr.{name}"].astype(np.float64),
                    tensors[f"measured.{name}"].astype(np.bool_),
                    # Absent from a table that was measured without the outcome of each input.
                    smoothed.astype(np.float64) if smoothed is not None else None,
                    task.lower_is_better,
                    agreement.astype(np.float64) if agreement is not None else None,
                    error.astype(np.float64) if error is not None else None,
                )
        except KeyError as error:
            raise TableError(f"{path}: {error.args[0]} is missing") from None
        return cls(rows, cells, given_axes(space.axes))

    def _check(self, path: Path, space: Space, tasks: Mapping[str, Task]) -> None:
        if len(set(self.rows)) != len(self.rows) or self.rows[-1] != space.select({None}).largest:
            raise TableError(f"{path}: rows must be distinct and end with the largest choice")
        try:
            full = np.unique(self.full_rows)
        except ValueError as error:
            raise TableError(f"{path}: {error}") from None
        for task, cells in self.cells.items():
            shape = (len(self.rows), len(cells.columns))
            for name in ("value", "n", "stderr", "measured", "expected"):
                found = getattr(cells, name)
                if found.shape != shape or not np.isfinite(found).all():
                    raise TableError(f"{path}: {name}.{task} must be finite, of shape {shape}")
            known = cells.known_agreement
            if known.shape != shape or (known < 0).any() or (known > 1).any():
                raise TableError(f"{path}: agreement.{task} must be 0 to 1, of shape {shape}")
            if cells.known_error.shape != shape or (cells.known_error < 0).any():
                raise TableError(f"{path}: error.{task} must be 0 or more, of shape {shape}")
            for name, least, most in _ranges(tasks[task]):
                found = getattr(cells, name)
                if not ((found >= least) & (found <= most)).all():
                    raise TableError(f"{path}: {name}.{task} must be {least} to {most}")
            whole = [cells.value[full, -1], cells.expected[full, -1]]
            compared = [*whole, cells.expected] if cells.lower_is_better else whole
            scored = min(float(values.min()) for values in compared) > 0
            if cells.columns[-1] != space.select({task}).largest or not scored:
                raise TableError(f"{path}: {task} must end with the largest choice, scored above 0")


def given_axes(axes: Iterable[Axis]) -> tuple[str, ...]:
    """Return the names of the axes that say which inputs are there."""
    return tuple(axis.name for axis in axes if axis.kind == "given")


def inputs_of(axes: Iterable[Axis], choices: Mapping[str, Value]) -> tuple[str, ...] | None:
    """Return the inputs that are there by a subnet's choices; None where it does not say."""
    for axis in given_axes(axes):
        return tuple(str(choices[axis]).split("+"))
    return None


def _ranges(task: Task) -> tuple[tuple[str, float, float], ...]:
    """Return the least and the greatest number of each entry."""
    least, most = _LEAST.get(task.metric, 0), np.inf if task.lower_is_better else 1
    return (
        ("value", least, most),
        ("expected", least, most),
        ("stderr", 0, most),
        ("n", 0, _MAX_N),
    )


def _positions(choices: Sequence[Subnet], axes: Sequence[Axis]) -> NDArray[np.uint8]:
    return np.array(
        [[axis.index(choice[axis.name]) for axis in axes] for choice in choices], dtype=np.uint8
    ).reshape(len(choices), len(axes))


def _choices(positions: NDArray[np.uint8], axes: Sequence[Axis]) -> tuple[Subnet, ...]:
    if positions.ndim != 2 or positions.shape[1] != len(axes):
        raise ValueError(f"choices of shape {positions.shape} do not fit {len(axes)} axes")
    return tuple(
        Subnet((axis.name, axis.values[i]) for axis, i in zip(axes, row, strict=True))
        for row in positions
    )

"""The score of every (task, path), measured once and kept with the checkpoint.

A task's score depends only on the steps on its own path. So the table factorises along the tree:
it has one row per choice on the axes that all tasks share (the trunk) and, per task, one column per
choice on the task's own axes (the branch). A subnet's scores are one cell per task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from models.files import reading, replacing
from models.space import Axis, Space, Subnet

TABLE = "table.safetensors"
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
_ALL = slice(None)
_KINDS = {  # of numbers, by entry
    "rows": "u",
    "columns": "u",
    "value": "f",
    "smoothed": "f",
    "stderr": "f",
    "n": "iu",
    "measured": "b",
}
# Every metric is at most 1, and a rank correlation at least -1.
_RANGES = (("value", -1, 1), ("expected", -1, 1), ("stderr", 0, 1), ("n", 0, 2**31 - 1))


class TableError(ValueError):
    """A table does not belong to the model. The message names the entry."""


class Score(NamedTuple):
    """One task's score under a subnet.

    Attributes:
        value: As measured, in the task's metric.
        expected: What the search counts on: the value with its noise smoothed out, in the metric.
        retention: Expected score over the largest subnet's.
        n: Inputs the value was measured on.
        stderr: Standard error of the value.
        measured: False if the value was predicted from other cells.
    """

    value: float
    expected: float
    retention: float
    n: int
    stderr: float
    measured: bool


@dataclass(frozen=True)
class Cells:
    """One task's part of the table; all arrays have shape [rows, columns].

    Attributes:
        columns: Choices on the task's own axes.
        value: Measured scores.
        n: Inputs each was measured on.
        stderr: Standard errors of the values.
        measured: False where a value was predicted from other cells.
        smoothed: Expected scores (`search.quality.smooth`); None where there are none.
    """

    columns: tuple[Subnet, ...]
    value: FloatArray
    n: NDArray[np.int64]
    stderr: FloatArray
    measured: BoolArray
    smoothed: FloatArray | None = None

    @property
    def expected(self) -> FloatArray:
        """The expected scores; the measured ones where there are no others."""
        return self.value if self.smoothed is None else self.smoothed

    def part(self, rows: slice, columns: slice) -> Cells:
        """Return some of the rows and columns."""
        index = (rows, columns)
        return Cells(
            self.columns[columns],
            self.value[index],
            self.n[index],
            self.stderr[index],
            self.measured[index],
            None if self.smoothed is None else self.smoothed[index],
        )


@dataclass(frozen=True)
class Table:
    """Scores of a model's subnets.

    Attributes:
        rows: Choices on the axes that belong to no single task.
        cells: Per task, in the model's order.
    """

    rows: tuple[Subnet, ...]
    cells: Mapping[str, Cells]

    def part(self, rows: slice = _ALL, columns: slice = _ALL) -> Table:
        """Return some of the rows, and of every task's columns."""
        return Table(self.rows[rows], {t: c.part(rows, columns) for t, c in self.cells.items()})

    def retention(self, task: str) -> FloatArray:
        """Return expected score over that of the last row and column, shape [rows, columns]."""
        expected = self.cells[task].expected
        retention: FloatArray = expected / expected[-1, -1]
        return retention

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
        )

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
        with replacing(path) as part:
            save_file(tensors, part)

    @classmethod
    def load(cls, path: Path, space: Space, tasks: Sequence[str]) -> Table:
        """Read a table and check that it belongs to the space and tasks.

        Raises:
            TableError: If the file is none, or an entry is missing, of another shape or type, not
                finite, out of range, or names a choice that the space does not have; or if the
                last cell is not the largest subnet.
        """
        with reading(path, TableError):
            tensors = load_file(path)
            table = cls._of(tensors, path, space, tasks)
            table._check(path, space)
        return table

    @classmethod
    def _of(
        cls, tensors: Mapping[str, NDArray[Any]], path: Path, space: Space, tasks: Sequence[str]
    ) -> Table:
        for name, tensor in tensors.items():
            kind = name.partition(".")[0]
            if kind in _KINDS and tensor.dtype.kind not in _KINDS[kind]:
                raise TableError(f"{path}: {name} has the dtype {tensor.dtype}")
        try:
            rows = _choices(tensors["rows"], space.select({None}).axes)
            cells = {}
            for task in tasks:
                columns = _choices(tensors[f"columns.{task}"], space.select({task}).axes)
                smoothed = tensors.get(f"smoothed.{task}")
                cells[task] = Cells(
                    columns,
                    tensors[f"value.{task}"].astype(np.float64),
                    tensors[f"n.{task}"].astype(np.int64),
                    tensors[f"stderr.{task}"].astype(np.float64),
                    tensors[f"measured.{task}"].astype(np.bool_),
                    # Absent from a table that was measured without the outcome of each input.
                    smoothed.astype(np.float64) if smoothed is not None else None,
                )
        except KeyError as error:
            raise TableError(f"{path}: {error.args[0]} is missing") from None
        return cls(rows, cells)

    def _check(self, path: Path, space: Space) -> None:
        if len(set(self.rows)) != len(self.rows) or self.rows[-1] != space.select({None}).largest:
            raise TableError(f"{path}: rows must be distinct and end with the largest choice")
        for task, cells in self.cells.items():
            shape = (len(self.rows), len(cells.columns))
            for name in ("value", "n", "stderr", "measured", "expected"):
                found = getattr(cells, name)
                if found.shape != shape or not np.isfinite(found).all():
                    raise TableError(f"{path}: {name}.{task} must be finite, of shape {shape}")
            for name, least, most in _RANGES:
                found = getattr(cells, name)
                if not ((found >= least) & (found <= most)).all():
                    raise TableError(f"{path}: {name}.{task} must be {least} to {most}")
            scored = min(cells.value[-1, -1], cells.expected[-1, -1]) > 0
            if cells.columns[-1] != space.select({task}).largest or not scored:
                raise TableError(f"{path}: {task} must end with the largest choice, scored above 0")


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

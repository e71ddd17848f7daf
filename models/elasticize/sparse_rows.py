"""Sparse matrices as rows of weighted columns, multiplied without a library of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A matrix, float32, shape [rows, columns].

    Attributes:
        shape: Rows and columns.
        columns: Of each value that is not 0, row by row.
        starts: Where each row begins among these.
        values: Likewise.
    """

    shape: tuple[int, int]
    columns: Ints
    starts: Ints
    values: Floats

    def __matmul__(self, dense: Floats) -> Floats:
        """Return the product with a dense matrix, shape [rows, width]."""
        if not len(self.columns):
            return np.zeros((self.shape[0], dense.shape[1]), dtype=np.float32)
        found: Floats = F.embedding_bag(
            torch.from_numpy(self.columns),
            torch.from_numpy(np.ascontiguousarray(dense, dtype=np.float32)),
            torch.from_numpy(self.starts),
            mode="sum",
            per_sample_weights=torch.from_numpy(self.values),
        ).numpy()
        return found

    @cached_property
    def row_of(self) -> Ints:
        """The row of each value."""
        lengths = np.diff(np.append(self.starts, len(self.columns)))
        return np.repeat(np.arange(self.shape[0]), lengths)

    @cached_property
    def T(self) -> SparseRows:  # as numpy calls it
        """The transposed matrix."""
        order = np.argsort(self.columns, kind="stable")
        counts = np.bincount(self.columns, minlength=self.shape[1])
        starts = np.cumsum(counts) - counts
        return SparseRows(self.shape[::-1], self.row_of[order], starts, self.values[order])

    def scaled(self, columns: Floats) -> SparseRows:
        """Return the matrix with its columns times some numbers, and then each row at length 1."""
        values = self.values * columns[self.columns]
        squares = np.bincount(self.row_of, values.astype(np.float64) ** 2, self.shape[0])
        lengths = np.sqrt(np.maximum(squares, 1e-24))
        values = (values / lengths[self.row_of]).astype(np.float32)
        return SparseRows(self.shape, self.columns, self.starts, values)

    def toarray(self) -> Floats:
        """Return the matrix as a dense one."""
        found = np.zeros(self.shape, dtype=np.float32)
        found[self.row_of, self.columns] = self.values
        return found


def counted(rows: list[Ints], width: int) -> SparseRows:
    """Return how often each row has each number below a width, shape [rows, width]."""
    lengths = [len(row) for row in rows]
    keys = np.repeat(np.arange(len(rows)), lengths) * width + np.concatenate(rows)
    found, counts = np.unique(keys, return_counts=True)
    starts = np.searchsorted(found, np.arange(len(rows)) * width)
    return SparseRows((len(rows), width), found % width, starts, counts.astype(np.float32))

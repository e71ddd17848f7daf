"""One task's part of a table: what each of its cells holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.space import Subnet

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]


class Score(NamedTuple):
    """One task's score under a subnet.

    Attributes:
        value: As measured, in the task's metric.
        expected: What the search counts on: the value with its noise smoothed out, in the metric.
        retention: Expected score over the largest subnet's for the same inputs; where less is
            better, that subnet's expected error over the expected error.
        n: Inputs the value was measured on.
        stderr: Standard error of the value.
        measured: False if the value was predicted from other cells.
        error: Standard error of the retention; 0 where it is not known.
    """

    value: float
    expected: float
    retention: float
    n: int
    stderr: float
    measured: bool
    error: float = 0.0


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
        lower_is_better: Whether scores are errors.
        agreement: How far answers agree with those of the largest subnet whose answers have the
            same size, on the data of the values, 0..1 (`search.quality.alike`); NaN where that is
            not known, None if it is of no cell.
        error: Standard errors of the retentions (`search.quality.errors`); NaN where they are not
            known, None if they are of no cell.
    """

    columns: tuple[Subnet, ...]
    value: FloatArray
    n: NDArray[np.int64]
    stderr: FloatArray
    measured: BoolArray
    smoothed: FloatArray | None = None
    lower_is_better: bool = False
    agreement: FloatArray | None = None
    error: FloatArray | None = None

    @property
    def expected(self) -> FloatArray:
        """The expected scores; the measured ones where there are no others."""
        return self.value if self.smoothed is None else self.smoothed

    def part(self, rows: slice | Sequence[int], columns: slice) -> Cells:
        """Return some of the rows and columns."""
        index: Any = (rows, columns)
        return replace(
            self,
            columns=self.columns[columns],
            value=self.value[index],
            n=self.n[index],
            stderr=self.stderr[index],
            measured=self.measured[index],
            smoothed=None if self.smoothed is None else self.smoothed[index],
            agreement=None if self.agreement is None else self.agreement[index],
            error=None if self.error is None else self.error[index],
        )

    def above(self, other: Cells) -> Cells:
        """Return these rows, then the other's, of the same columns."""
        parts = (self, other)
        return replace(
            self,
            value=np.concatenate([one.value for one in parts]),
            n=np.concatenate([one.n for one in parts]),
            stderr=np.concatenate([one.stderr for one in parts]),
            measured=np.concatenate([one.measured for one in parts]),
            smoothed=np.concatenate([one.expected for one in parts]),
            agreement=np.concatenate([one.known_agreement for one in parts]),
            error=np.concatenate([one.known_error for one in parts]),
        )

    @property
    def known_error(self) -> FloatArray:
        """The errors of the retentions; NaN where they are not known."""
        return np.full(self.value.shape, np.nan) if self.error is None else self.error

    @property
    def known_agreement(self) -> FloatArray:
        """The agreement; NaN where it is not known."""
        return np.full(self.value.shape, np.nan) if self.agreement is None else self.agreement

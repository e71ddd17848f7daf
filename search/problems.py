"""The two knapsacks of a request: best under a ceiling, and cheapest above a floor.

Everything that does not depend on the weights is computed once per set of asked tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search.grid import Grid, IntArray
from search.solve import Hulls, Problem, hulls
from search.table import FloatArray


@dataclass(frozen=True)
class Asked:
    """The arrays of the asked tasks.

    Attributes:
        trunk: MACs, shape [rows].
        macs: Of each option, shape [rows, columns, tasks].
        retention: Likewise.
        hulls: Of retention over MACs.
    """

    trunk: FloatArray
    macs: FloatArray
    retention: FloatArray
    hulls: Hulls

    @classmethod
    def of(cls, grid: Grid) -> Asked:
        """Return the arrays of all tasks."""
        macs, retention = grid.branch.macs.astype(np.float64), grid.scores.retention
        return cls(grid.trunk.macs.astype(np.float64), macs, retention, hulls(macs, retention))

    def select(self, tasks: IntArray) -> Asked:
        """Return the arrays of some tasks."""
        return Asked(
            self.trunk,
            np.ascontiguousarray(self.macs[..., tasks]),
            np.ascontiguousarray(self.retention[..., tasks]),
            Hulls(
                np.ascontiguousarray(self.hulls.columns[..., tasks]),
                np.ascontiguousarray(self.hulls.length[..., tasks]),
            ),
        )

    @cached_property
    def lowest_macs(self) -> FloatArray:
        """MACs of each row with every task at its cheapest, shape [rows]."""
        macs: FloatArray = self.trunk + self._hull_macs[:, 0].sum(axis=1)
        return macs

    def best(self, weights: FloatArray, ceiling: float) -> Problem:
        """Return the problem of the highest quality with MACs at most the ceiling."""
        return Problem(
            gain=self.retention,
            gain_scale=weights,
            load=self.macs,
            load_scale=self._ones,
            row_gain=self._zeros,
            row_load=self.trunk,
            start_gain=self._lowest_value @ weights,
            start_load=self.lowest_macs,
            step_gain=self._step_value * weights,
            step_load=self._step_macs,
            total_gain=self._value_range @ weights,
            total_load=self._macs_range,
            start=self._cheapest_position,
            direction=1,
            columns=self.hulls.columns,
            capacity=ceiling,
        )

    def cheapest(self, weights: FloatArray, floor: float) -> Problem:
        """Return the problem of the fewest MACs with quality at least the floor.

        Its gains are MACs saved and its loads quality lost, both counted from zero.
        """
        return Problem(
            gain=self.macs,
            gain_scale=-self._ones,
            load=self.retention,
            load_scale=-weights,
            row_gain=-self.trunk,
            row_load=self._zeros,
            start_gain=-(self.lowest_macs + self._macs_range),
            start_load=-(self._highest_value @ weights),
            step_gain=self._falling_macs,
            step_load=self._falling_value * weights,
            total_gain=self._macs_range,
            total_load=self._value_range @ weights,
            start=self.hulls.length,
            direction=-1,
            columns=self.hulls.columns,
            capacity=-floor,
        )

    def _along_hull(self, options: FloatArray) -> FloatArray:
        """Return the options at each hull position, shape [rows, positions, tasks]."""
        return np.take_along_axis(options, self.hulls.columns.transpose(1, 0, 2), axis=1)

    @cached_property
    def _hull_macs(self) -> FloatArray:
        return self._along_hull(self.macs)

    @cached_property
    def _hull_value(self) -> FloatArray:
        return self._along_hull(self.retention)

    @cached_property
    def _lowest_value(self) -> FloatArray:
        return np.ascontiguousarray(self._hull_value[:, 0])

    @cached_property
    def _highest_value(self) -> FloatArray:
        return np.ascontiguousarray(self._hull_value[:, -1])

    @cached_property
    def _step_macs(self) -> FloatArray:
        return np.diff(self._hull_macs, axis=1)

    @cached_property
    def _step_value(self) -> FloatArray:
        return np.diff(self._hull_value, axis=1)

    @cached_property
    def _falling_macs(self) -> FloatArray:
        return np.ascontiguousarray(self._step_macs[:, ::-1])

    @cached_property
    def _falling_value(self) -> FloatArray:
        return np.ascontiguousarray(self._step_value[:, ::-1])

    @cached_property
    def _macs_range(self) -> FloatArray:
        total: FloatArray = self._step_macs.sum(axis=(1, 2))
        return total

    @cached_property
    def _value_range(self) -> FloatArray:
        total: FloatArray = self._step_value.sum(axis=1)
        return total

    @cached_property
    def _cheapest_position(self) -> IntArray:
        return np.zeros_like(self.hulls.length)

    @cached_property
    def _ones(self) -> FloatArray:
        return np.ones(self.macs.shape[2])

    @cached_property
    def _zeros(self) -> NDArray[np.float64]:
        return np.zeros(len(self.trunk))

"""A model's costs and retentions as arrays, laid out for the search.

Steps are grouped by the set of tasks whose answers need them. What several tasks share depends on
shared axes alone, so it costs the same in every column of a row; what one task needs alone costs
what its own column says. So the cost of a subnet is a sum over the sets that meet the asked tasks
and one cell per task, its quality is one cell per task, and the search never has to enumerate
subnets. Costs are polynomials in the lengths of sequences (`search.lengths`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from models.core import Cost
from models.space import Subnet, Value
from models.variants import Choices
from search.lengths import IntArray, Lengths
from search.quality.table import BoolArray, FloatArray, Score
from search.timing.profile import Function, LatencyProfile
from search.timing.timing import Timing

_OF_ROWS = (
    "shared",
    "own",
    "shared_bytes",
    "own_bytes",
    "retention",
    "error",
    "load",
    "numbers",
    "shared_functions",
    "own_functions",
)
_MAX_PROFILES = 4  # a model has one; while it is reloaded two
_MAX_TASK_SETS = 32  # of which is kept what they share
_MAX_RESIDENT = 16  # sets of built weights whose rows are kept


Resident: TypeAlias = frozenset[Choices]
"""Choices on the load axes of which the weights are built."""


class Priced(NamedTuple):
    """Every cell in one resource: MACs, microseconds, or bytes of weights.

    Attributes:
        shared: Of the steps that a set of tasks shares, shape [rows, sets].
        own: Of a task's own steps, shape [rows, columns, tasks].
    """

    shared: FloatArray
    own: FloatArray


@dataclass(frozen=True, eq=False)
class Grid:
    """Everything the search knows about a model, for the inputs that are there.

    A task with fewer columns than the others has its last one repeated. *Terms* are those of
    polynomials in the lengths.

    Attributes:
        tasks: Names, in the model's order.
        lengths: What terms stand for.
        rows: Choices on the shared axes, shape [rows].
        columns: Per task and column, choices on the task's own axes.
        sets: Sets of tasks that share steps, shape [sets, tasks].
        shared: MACs of the steps that each set shares, shape [rows, sets, terms].
        own: MACs of a task's own steps, shape [rows, columns, tasks, terms].
        shared_bytes: Of the weights of the steps that each set shares, shape [rows, sets].
        own_bytes: Of those of a task's own steps, shape [rows, columns, tasks].
        retention: Expected, shape [rows, columns, tasks].
        error: Standard errors of the retentions, 0 where they are not known; likewise.
        scores: What the table says, by row, task and column.
        load_axes: Names of the axes whose weights must be built.
        numbers: Of each row, its number in the table.
        load: Position in ``loads`` of each row's values on these, shape [rows].
        loads: Values on these axes, each combination once.
        loaded: What the model is loaded with: the last value on each of these axes.
        functions: What the steps of all rows compute, and the sequences it depends on, each once.
        depends: Whether a function depends on a sequence, shape [functions, sequences].
        shared_functions: Positions in ``functions`` of the steps that each set shares, -1 for
            none, shape [rows, sets, steps].
        own_functions: Likewise of a task's own, shape [rows, columns, tasks, steps].
        largest_shared: MACs of the largest subnet for these inputs, shape [sets, terms].
        largest_own: Likewise, shape [tasks, terms].
    """

    tasks: tuple[str, ...]
    lengths: Lengths
    rows: tuple[Subnet, ...]
    columns: tuple[tuple[Mapping[str, Value], ...], ...]
    sets: BoolArray
    shared: IntArray
    own: IntArray
    shared_bytes: IntArray
    own_bytes: IntArray
    retention: FloatArray
    error: FloatArray
    scores: tuple[tuple[tuple[Score, ...], ...], ...]
    load_axes: tuple[str, ...]
    numbers: IntArray
    load: IntArray
    loads: tuple[Choices, ...]
    loaded: Choices
    functions: tuple[Function, ...]
    depends: FloatArray
    shared_functions: IntArray
    own_functions: IntArray
    largest_shared: IntArray
    largest_own: IntArray

    def sharing(self, tasks: IntArray) -> BoolArray:
        """Return the sets that meet the asked tasks, shape [sets]."""
        if (key := tasks.tobytes()) not in self._sharing:
            if len(self._sharing) >= _MAX_TASK_SETS:
                self._sharing.clear()
            self._sharing[key] = np.any(self.sets[:, tasks], axis=1)
        return self._sharing[key]

    def macs(self, basis: IntArray) -> Priced:
        """Return the cells in MACs at some lengths; the basis is that of `Lengths.basis`."""
        return Priced(
            (self.shared @ basis).astype(np.float64), (self.own @ basis).astype(np.float64)
        )

    def cost(self, basis: IntArray, row: int, columns: IntArray, tasks: IntArray) -> Cost:
        """Return the cost of one subnet for the asked tasks, one column each."""
        sharing = self.sharing(tasks)
        shared = self.shared[row][sharing].sum(axis=0)
        macs = int((shared + self.own[row][columns, tasks].sum(axis=0)) @ basis)
        held = self.shared_bytes[row][sharing].sum() + self.own_bytes[row][columns, tasks].sum()
        return Cost(macs, int(held))

    @property
    def weights(self) -> Priced:
        """The cells in bytes of weights."""
        return Priced(self.shared_bytes.astype(np.float64), self.own_bytes.astype(np.float64))

    def largest_macs(self, tasks: IntArray, basis: IntArray) -> int:
        """Return the MACs of the largest subnet for some tasks."""
        shared = self.largest_shared[self.sharing(tasks)] @ basis
        return int(shared.sum() + (self.largest_own[tasks] @ basis).sum())

    def microseconds(self, timing: Timing, lengths: Mapping[str, int]) -> FloatArray:
        """Predict every function, and at the end nothing; shape [functions + 1]."""
        sequences = np.array([lengths[name] for name in self.lengths.names], dtype=np.float64)
        found = timing.microseconds(self._curves(timing.profile), self.depends @ sequences)
        return np.append(found, 0.0)  # what stands at -1 takes no time

    def times(self, of_function: FloatArray) -> Priced:
        """Return the cells in the unit of what `microseconds` gives."""
        return Priced(
            of_function[self.shared_functions].sum(axis=-1),
            of_function[self.own_functions].sum(axis=-1),
        )

    def time(self, of_function: FloatArray, row: int, columns: IntArray, tasks: IntArray) -> float:
        """Return the same of one subnet, for the asked tasks."""
        shared = of_function[self.shared_functions[row][self.sharing(tasks)]]
        return float(shared.sum() + of_function[self.own_functions[row][columns, tasks]].sum())

    def allowed(self, resident: Resident) -> BoolArray:
        """Return the rows of which the weights are built, shape [rows]."""
        return self._allowed(resident)

    def part(self, rows: IntArray) -> Grid:
        """Return some of the rows."""
        return replace(
            self,
            rows=tuple(self.rows[r] for r in rows),
            scores=tuple(self.scores[r] for r in rows),
            **{name: getattr(self, name)[rows] for name in _OF_ROWS},
        )

    def without_dominated(self, with_loaded: bool = False) -> Grid:
        """Drop the rows that another of the same weights beats or equals in every cell.

        That is, in retention and in the MACs of every term, so at all lengths. Such a row is never
        needed, whatever the tasks, preferences and budget in MACs.

        Args:
            with_loaded: Whether also those are dropped that a row beats or equals whose weights the
                model is loaded with. What saves time alone, as fewer bits do, goes by that.
        """
        count = len(self.rows)
        worth = np.concatenate(  # the less, the better
            [array.reshape(count, -1) for array in (self.shared, self.own, -self.retention)],
            axis=1,
        )
        is_loaded = np.array([self.loads[number] == self.loaded for number in self.load])
        is_as_good = (self.load[:, None] == self.load[None, :]) | (is_loaded[:, None] & with_loaded)
        for cell in np.unique(worth, axis=1).T:
            is_as_good &= cell[:, None] <= cell[None, :]
        # Of equal rows the first stays.
        is_better = is_as_good & (~is_as_good.T | np.tri(count, k=-1, dtype=np.bool_).T)
        return self.part(np.flatnonzero(~is_better.any(axis=0)))

    def describe(
        self, row: int, columns: IntArray, tasks: IntArray
    ) -> tuple[Subnet, dict[str, Score]]:
        """Return one subnet, and the score of each asked task.

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
        return self.rows[row] | choices, scores

    @cached_property
    def _sharing(self) -> dict[bytes, BoolArray]:
        return {}

    @cached_property
    def _curves(self) -> Callable[[LatencyProfile], IntArray]:
        return lru_cache(_MAX_PROFILES)(lambda profile: profile.numbers(self.functions))

    @cached_property
    def _allowed(self) -> Callable[[Resident], BoolArray]:
        def allowed(resident: Resident) -> BoolArray:
            return np.array([values in resident for values in self.loads])[self.load]

        return lru_cache(_MAX_RESIDENT)(allowed)

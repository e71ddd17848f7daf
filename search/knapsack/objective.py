"""The two objectives of a search: the best subnet under a ceiling, the cheapest above a floor.

For a fixed row the tasks are independent, each adding the cost (MACs, or another resource) and
value of one option: a multiple-choice knapsack. Its linear relaxation is solved greedily: it takes
the steps along all tasks' hulls by falling slope, value per cost. Both objectives take the same
steps and stop elsewhere. The slope where the greedy LP of one row stops also gives a Lagrangian
bound on every other row, in a few array operations.

Sources: Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem, Operations Research 27(3),
for the relaxation over convex hulls; Fisher 1981, The Lagrangian Relaxation Method for Solving
Integer Programming Problems, Management Science 27(1), for the bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

from search.knapsack.close import Knapsack
from search.knapsack.options import TaskOptions
from search.lengths import IntArray
from search.quality.table import BoolArray, FloatArray

_TINY = 1e-200  # in place of 0 where that would make a number undefined


class GreedyLP(NamedTuple):
    """One row's steps, taken by falling slope until the limit is met.

    Attributes:
        row: The row.
        taken: Steps of each task, a choice that keeps the limit.
        gain: Of that choice.
        bound: No choice in the row gains more.
        slope: Of the step that the relaxation takes in part; 0 if there is none.
    """

    row: int
    taken: list[int]
    gain: float
    bound: float
    slope: float


class Objective(ABC):
    """Rows to choose from, weights and a limit.

    Attributes:
        optimistic: A gain that no choice in the row exceeds, shape [rows]; minus infinity where
            none keeps the limit.
    """

    optimistic: FloatArray

    def __init__(
        self,
        options: TaskOptions,
        weights: FloatArray,
        limit: float,
        allowed: BoolArray | None = None,
    ) -> None:
        """Weigh the tasks.

        Args:
            options: Their arrays.
            weights: Summing to 1, shape [tasks].
            limit: Ceiling of the cost, or floor of the value.
            allowed: Rows that may be chosen, shape [rows]; None for all.
        """
        self.options = options
        self.allowed = allowed
        self.weights = weights
        self.limit = limit
        self.lowest, self.highest = (weights @ options.ends).reshape(2, -1)
        self._step_weights = np.concatenate([weights] * (options.slope.shape[1] // len(weights)))

    @property
    def least_cost(self) -> float:
        """Of any choice in an allowed row."""
        lowest = self.options.lowest_cost
        return float((lowest if self.allowed is None else lowest[self.allowed]).min())

    @abstractmethod
    def likely(self) -> int:
        """Guess the best row: value grows about as the square root of the cost on it."""

    @abstractmethod
    def greedy(self, row: int) -> GreedyLP:
        """Solve one row's relaxation, then put to use what its whole steps leave of the limit."""

    @abstractmethod
    def lagrangian(self, slope: float) -> FloatArray:
        """Return the Lagrangian bound on each row's gain, shape [rows]; the slope is above 0."""

    @abstractmethod
    def knapsack(self, row: int, slope: float) -> Knapsack:
        """Return one row's problem; slope as in its `GreedyLP`."""

    def slope(self, found: GreedyLP) -> float:
        """Return a slope that bounds the other rows well: its own, if it did not end too late.

        Value grows about as the square root of the cost, so that it never grows slower than
        at half its mean slope; one that stops at the last crumbs says nothing of other rows.
        0 if there is nothing to gain.
        """
        row = found.row
        rise = float(self.highest[row] - self.lowest[row])
        return max(found.slope, rise / (2 * float(self.options.cost_range[row])))

    def columns(self, found: GreedyLP) -> IntArray:
        """Return the column of each task, shape [tasks]."""
        columns: IntArray = self.options.columns[found.row][found.taken, self.options.each]
        return columns

    def _masked(self, can_be: BoolArray, gain: FloatArray) -> FloatArray:
        """Return the gain where a row may be chosen, and minus infinity elsewhere."""
        if self.allowed is not None:
            can_be = can_be & self.allowed
        return np.where(can_be, gain, -np.inf)

    def _steps(self, row: int) -> tuple[list[float], list[float], list[int]]:
        """Return the cost and slope of one row's steps, and their order by falling slope."""
        # A few dozen numbers: lists are faster here than arrays.
        slope = (self.options.slope[row] * self._step_weights).tolist()
        # The sort is stable: of two steps of a task at one slope the first stays first.
        order = sorted(range(len(slope)), key=slope.__getitem__, reverse=True)
        return self.options.step_cost[row].tolist(), slope, order

    def _surplus(self, slope: float) -> FloatArray:
        """Return the largest value less ``slope`` per cost of any choice, shape [rows]."""
        options, weights = self.options, np.maximum(self._step_weights, _TINY)
        # A step adds max(value, price) - price; one product weighs and adds them all.
        worth = options.cost_by_step * (slope / weights)[:, None]
        np.maximum(worth, options.value_by_step, out=worth)
        surplus: FloatArray = weights @ worth
        surplus += self.lowest
        surplus -= slope * options.highest_cost
        return surplus


class Best(Objective):
    """The most value, less the price of the cost, with cost at most the limit; that is its gain."""

    def __init__(
        self,
        options: TaskOptions,
        weights: FloatArray,
        limit: float,
        price: float = 0.0,
        allowed: BoolArray | None = None,
    ) -> None:
        """Say also what cost is worth.

        Args:
            options: As for every objective.
            weights: As for every objective.
            limit: Ceiling of the cost.
            price: Value given up for each unit of cost.
            allowed: Rows that may be chosen, shape [rows]; None for all.
        """
        super().__init__(options, weights, limit, allowed)
        self.price = price
        self._least = self.lowest - price * options.lowest_cost
        most = self._surplus(price) if price else self.highest
        can_be = options.lowest_cost <= limit
        self.optimistic = self._masked(can_be, most)

    def likely(self) -> int:
        """Guess the best row."""
        part = (self.limit - self.options.lowest_cost) / self.options.cost_range
        part = np.sqrt(part.clip(_TINY, 1.0))
        return int((self._least + (self.optimistic - self._least) * part).argmax())

    def greedy(self, row: int) -> GreedyLP:
        """Take steps while they fit, then any later ones that do."""
        cost, slope, order = self._steps(row)
        num_tasks = len(self.weights)
        count = [0] * num_tasks
        gain, left = float(self._least[row]), self.limit - float(self.options.lowest_cost[row])
        bound: float | None = None
        partly = 0.0
        for step in order:
            needs, rate = cost[step], slope[step] - self.price
            if rate <= 0:
                break  # the rest is not worth its price
            if needs > left:
                if bound is None:
                    partly, bound = rate, gain + left * rate
                continue
            position, task = divmod(step, num_tasks)
            if count[task] == position:
                count[task] += 1
                left -= needs
                gain += needs * rate
        return GreedyLP(row, count, gain, gain if bound is None else bound, partly)

    def lagrangian(self, slope: float) -> FloatArray:
        """Return the Lagrangian bound."""
        return self._surplus(slope + self.price) + slope * self.limit

    def knapsack(self, row: int, slope: float) -> Knapsack:
        """Return one row's problem."""
        options = self.options
        load, base = options.cost[row], float(options.base[row])
        gain = options.value[row] * self.weights - self.price * load
        return Knapsack(gain, load, -self.price * base, base, self.limit, slope)


class Cheapest(Objective):
    """The least cost with value at least the limit; its gain is minus the cost."""

    def __init__(
        self,
        options: TaskOptions,
        weights: FloatArray,
        limit: float,
        allowed: BoolArray | None = None,
    ) -> None:
        """As for every objective."""
        super().__init__(options, weights, limit, allowed)
        self.optimistic = self._masked(self.highest >= limit, -options.lowest_cost)

    @property
    def most_value(self) -> float:
        """Of any choice in an allowed row."""
        highest = self.highest if self.allowed is None else self.highest[self.allowed]
        return float(highest.max())

    def likely(self) -> int:
        """Guess the cheapest row."""
        rise = np.maximum(self.highest - self.lowest, 1e-300)
        with np.errstate(over="ignore"):  # of a limit far beyond a row: infinite, and clipped
            part = ((self.limit - self.lowest) / rise).clip(0.0, 1.0)
        return int((self.optimistic - self.options.cost_range * part**2).argmax())

    def greedy(self, row: int) -> GreedyLP:
        """Take steps until the value is reached, then take back any that are not needed."""
        cost, slope, order = self._steps(row)
        num_tasks = len(self.weights)
        count = [0] * num_tasks
        gain, missing = -float(self.options.lowest_cost[row]), self.limit - float(self.lowest[row])
        taken = 0
        for step in order:
            if missing <= 0 or not slope[step]:  # sums in another order may miss by rounding
                break
            count[step % num_tasks] += 1
            gain -= cost[step]
            missing -= cost[step] * slope[step]
            taken += 1
        if not taken:
            return GreedyLP(row, count, gain, gain, 0.0)
        partly = slope[order[taken - 1]]
        bound = gain - missing / partly
        for step in reversed(order[:taken]):
            value = cost[step] * slope[step]
            if value <= -missing:
                position, task = divmod(step, num_tasks)
                if count[task] == position + 1:
                    count[task] -= 1
                    gain += cost[step]
                    missing += value
        return GreedyLP(row, count, gain, bound, partly)

    def lagrangian(self, slope: float) -> FloatArray:
        """Return the Lagrangian bound."""
        return (self._surplus(slope) - self.limit) / slope

    def knapsack(self, row: int, slope: float) -> Knapsack:
        """Return one row's problem: its loads are value lost."""
        options = self.options
        gain, load = -options.cost[row], options.value[row] * -self.weights
        per_load = 1 / slope if slope else 0.0
        return Knapsack(gain, load, -float(options.base[row]), 0.0, -self.limit, per_load)

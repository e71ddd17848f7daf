"""The two questions of a request: the best subnet under a ceiling, the cheapest above a floor.

For a fixed row the tasks are independent, each adding the cost (MACs, or another
resource) and value of one option: a
multiple-choice knapsack. Its linear relaxation takes the steps along all tasks' hulls by falling
slope, value per cost. Both questions walk along the same steps and stop elsewhere. The slope where
one row's walk stops also bounds every other row, by Lagrange, in a few array operations.

Sources: Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem, Operations Research 27(3),
for the relaxation over convex hulls; Fisher 1981, The Lagrangian Relaxation Method for Solving
Integer Programming Problems, Management Science 27(1), for the bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

from search.grid import IntArray
from search.knapsack.asked import Asked
from search.knapsack.close import Knapsack
from search.quality.table import BoolArray, FloatArray

_TINY = 1e-200  # in place of 0 where that would make a number undefined


class Walk(NamedTuple):
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


class Question(ABC):
    """Rows to choose from, weights and a limit.

    Attributes:
        optimistic: A gain that no choice in the row exceeds, shape [rows]; minus infinity where
            none keeps the limit.
    """

    optimistic: FloatArray

    def __init__(self, asked: Asked, weights: FloatArray, limit: float) -> None:
        """Weigh the tasks.

        Args:
            asked: Their arrays.
            weights: Summing to 1, shape [tasks].
            limit: Ceiling of the cost, or floor of the value.
        """
        self.asked = asked
        self.weights = weights
        self.limit = limit
        self.lowest, self.highest = (weights @ asked.ends).reshape(2, -1)
        self._step_weights = np.concatenate([weights] * (asked.slope.shape[1] // len(weights)))

    @abstractmethod
    def likely(self) -> int:
        """Guess the best row: value grows about as the square root of the cost on it."""

    @abstractmethod
    def walk(self, row: int) -> Walk:
        """Solve one row's relaxation, then put to use what its whole steps leave of the limit."""

    @abstractmethod
    def bound(self, slope: float) -> FloatArray:
        """Return the Lagrangian bound on each row's gain, shape [rows]; the slope is above 0."""

    @abstractmethod
    def knapsack(self, row: int, slope: float) -> Knapsack:
        """Return one row's problem; slope as in its `Walk`."""

    def slope(self, walk: Walk) -> float:
        """Return a slope that bounds the other rows well: the walk's, if it did not end too late.

        Value grows about as the square root of the cost, so that it never grows slower than
        at half its mean slope; a walk that stops at the last crumbs says nothing of other rows.
        0 if there is nothing to gain.
        """
        row = walk.row
        rise = float(self.highest[row] - self.lowest[row])
        return max(walk.slope, rise / (2 * float(self.asked.cost_range[row])))

    def columns(self, walk: Walk) -> IntArray:
        """Return the column of each task, shape [tasks]."""
        columns: IntArray = self.asked.columns[walk.row][walk.taken, self.asked.each]
        return columns

    def _steps(self, row: int) -> tuple[list[float], list[float], list[int]]:
        """Return the cost and slope of one row's steps, and their order by falling slope."""
        # A few dozen numbers: lists are faster here than arrays.
        slope = (self.asked.slope[row] * self._step_weights).tolist()
        # The sort is stable: of two steps of a task at one slope the first stays first.
        order = sorted(range(len(slope)), key=slope.__getitem__, reverse=True)
        return self.asked.step_cost[row].tolist(), slope, order

    def _surplus(self, slope: float) -> FloatArray:
        """Return the largest value less ``slope`` per cost of any choice, shape [rows]."""
        asked, weights = self.asked, np.maximum(self._step_weights, _TINY)
        # A step adds max(value, price) - price; one product weighs and adds them all.
        worth = asked.cost_by_step * (slope / weights)[:, None]
        np.maximum(worth, asked.value_by_step, out=worth)
        surplus: FloatArray = weights @ worth
        surplus += self.lowest
        surplus -= slope * asked.highest_cost
        return surplus


class Best(Question):
    """The most value, less the price of the cost, with cost at most the limit; that is its gain."""

    def __init__(
        self,
        asked: Asked,
        weights: FloatArray,
        limit: float,
        price: float = 0.0,
        allowed: BoolArray | None = None,
    ) -> None:
        """Say also what cost is worth.

        Args:
            asked: As for every question.
            weights: As for every question.
            limit: Ceiling of the cost.
            price: Value given up for each unit of cost.
            allowed: Rows that may be chosen, shape [rows]; None for all.
        """
        super().__init__(asked, weights, limit)
        self.price = price
        self._least = self.lowest - price * asked.lowest_cost
        most = self._surplus(price) if price else self.highest
        can_be = asked.lowest_cost <= limit
        self.optimistic = np.where(can_be if allowed is None else can_be & allowed, most, -np.inf)

    def likely(self) -> int:
        """Guess the best row."""
        part = (self.limit - self.asked.lowest_cost) / self.asked.cost_range
        part = np.sqrt(part.clip(_TINY, 1.0))
        return int((self._least + (self.optimistic - self._least) * part).argmax())

    def walk(self, row: int) -> Walk:
        """Take steps while they fit, then any later ones that do."""
        cost, slope, order = self._steps(row)
        num_tasks = len(self.weights)
        count = [0] * num_tasks
        gain, left = float(self._least[row]), self.limit - float(self.asked.lowest_cost[row])
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
        return Walk(row, count, gain, gain if bound is None else bound, partly)

    def bound(self, slope: float) -> FloatArray:
        """Return the Lagrangian bound."""
        return self._surplus(slope + self.price) + slope * self.limit

    def knapsack(self, row: int, slope: float) -> Knapsack:
        """Return one row's problem."""
        asked = self.asked
        load, trunk = asked.cost[row], float(asked.trunk[row])
        gain = asked.value[row] * self.weights - self.price * load
        return Knapsack(gain, load, -self.price * trunk, trunk, self.limit, slope)


class Cheapest(Question):
    """The least cost with value at least the limit; its gain is minus the cost."""

    def __init__(self, asked: Asked, weights: FloatArray, limit: float) -> None:
        """As for every question."""
        super().__init__(asked, weights, limit)
        self.optimistic = np.where(self.highest >= limit, -asked.lowest_cost, -np.inf)

    def likely(self) -> int:
        """Guess the cheapest row."""
        rise = np.maximum(self.highest - self.lowest, 1e-300)
        with np.errstate(over="ignore"):  # of a limit far beyond a row: infinite, and clipped
            part = ((self.limit - self.lowest) / rise).clip(0.0, 1.0)
        return int((self.optimistic - self.asked.cost_range * part**2).argmax())

    def walk(self, row: int) -> Walk:
        """Take steps until the value is reached, then take back any that are not needed."""
        cost, slope, order = self._steps(row)
        num_tasks = len(self.weights)
        count = [0] * num_tasks
        gain, missing = -float(self.asked.lowest_cost[row]), self.limit - float(self.lowest[row])
        taken = 0
        for step in order:
            if missing <= 0 or not slope[step]:  # sums in another order may miss by rounding
                break
            count[step % num_tasks] += 1
            gain -= cost[step]
            missing -= cost[step] * slope[step]
            taken += 1
        if not taken:
            return Walk(row, count, gain, gain, 0.0)
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
        return Walk(row, count, gain, bound, partly)

    def bound(self, slope: float) -> FloatArray:
        """Return the Lagrangian bound."""
        return (self._surplus(slope) - self.limit) / slope

    def knapsack(self, row: int, slope: float) -> Knapsack:
        """Return one row's problem: its loads are value lost."""
        asked = self.asked
        gain, load = -asked.cost[row], asked.value[row] * -self.weights
        per_load = 1 / slope if slope else 0.0
        return Knapsack(gain, load, -float(asked.trunk[row]), 0.0, -self.limit, per_load)

"""From tasks, preferences, a budget and the moment's terms to a subnet."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from models.core import Cost, Elastic, Shape, Shapes
from models.space import Subnet, Value
from search.budget import Budget, InfeasibleBudgetError
from search.build import build_grid
from search.grid import Grid
from search.knapsack.solve import Solution
from search.knapsack.view import View
from search.quality.table import Score, Table, given_axes, inputs_of
from search.request import Request, RequestError, RequestReader
from search.solver import ROUNDING, Chosen, Solver, Terms

__all__ = [
    "TOLERANCE",
    "Finder",
    "Finders",
    "NotResidentError",
    "Request",
    "RequestError",
    "Selection",
    "Terms",
]

TOLERANCE = 1e-3
_MAX_QUESTIONS = 128  # answers of one finder that are kept, a few kilobytes each
_MAX_FINDERS = 256  # of one model that are kept, for shapes and fixed values
_ShapesKey: TypeAlias = tuple[tuple[str, Shape], ...]
_Choices: TypeAlias = tuple[tuple[str, Value], ...]

_MAX_FIXED = 32  # sets of fixed values of which the rows are kept, a megabyte each at most


@dataclass(frozen=True)
class Selection:
    """A subnet and what is known about it.

    Attributes:
        subnet: Choices on the shared axes and on those of the asked tasks.
        cost: For one input, the asked tasks only.
        fraction: MACs over those of the largest subnet for the same tasks.
        quality: Preference-weighted mean of the tasks' retention, which is that of the expected
            scores.
        gap: No feasible subnet has a quality above ``quality + gap``; where ``min_quality`` was
            set, none has a fraction below ``fraction - gap``. 0 means proven optimal. With a
            price, of quality less the price of the compute.
        preferences: Weight of each asked task, summing to 1.
        scores: Of each asked task.
        seconds: Predicted for running the items together; None without a timing.
    """

    subnet: Subnet
    cost: Cost
    fraction: float
    quality: float
    gap: float
    preferences: Mapping[str, float]
    scores: Mapping[str, Score]
    seconds: float | None = None


class NotResidentError(InfeasibleBudgetError):
    """No subnet of which the weights are built fits the budget, but others would.

    Attributes:
        field: Of what is built, the part of the budget that cannot be met; ``resident`` if none
            of the rows is built at all.
        feasible: The nearest value of that field that can be met with what is built.
        wanted: The best subnet if everything were built.
        load: Its values on the load axes: the weights to build.
    """

    def __init__(
        self, wanted: Selection, load: Mapping[str, Value], nearest: InfeasibleBudgetError
    ) -> None:
        chosen = " ".join(f"{axis}={value}" for axis, value in load.items())
        super().__init__(
            f"no resident variant fits, but {chosen} would: {nearest}",
            nearest.field,
            nearest.feasible,
        )
        self.wanted = wanted
        self.load = load


class Finders:
    """The searches over one model's table, for items of any shapes.

    Every row is planned once, here. A length that was never seen only evaluates polynomials. For
    one thread, as that of an event loop. Kept are the last 256 finders, each with its last 128
    answers, and of the last 32 sets of fixed values the rows.
    """

    def __init__(self, model: Elastic, table: Table) -> None:
        """Plan the table.

        Args:
            model: Plans.
            table: Of the model.

        Raises:
            ValueError: As `search.build.build_grid`; or if an input may be missing and no axis
                says so.
        """
        self._model = model
        self._axes = model.space.axes
        self._grids = {
            names: build_grid(model, table, names) for names in _sets_of_inputs(model, table)
        }
        self._rows = lru_cache(_MAX_FIXED)(self._rows_of)
        self._finders = lru_cache(_MAX_FINDERS)(self._finder)

    def at(self, shapes: Shapes | None = None, fixed: Mapping[str, Value] | None = None) -> Finder:
        """Return the search for items of some shapes.

        Args:
            shapes: Of the inputs that are there; None for the largest of all inputs.
            fixed: Values on shared axes that every answer must have; None for any.

        Raises:
            InvalidInputError: If the inputs do not go together, or one cannot have this length.
            ValueError: If the model takes other shapes, or no subnet has the fixed values.
        """
        if shapes is None:
            shapes = self._model.inputs.plan_shapes()
        return self._finders(tuple(sorted(shapes.items())), _key(fixed))

    def _finder(self, shapes: _ShapesKey, fixed: _Choices) -> Finder:
        inputs, of_item = self._model.inputs, dict(shapes)
        inputs.check(of_item)
        inputs.given_choices(self._axes, of_item)
        names = tuple(name for name in inputs if name in of_item)
        if names not in self._grids:
            raise ValueError(f"the table has no row for the inputs {list(names)}")
        whole, lean = self._rows(names, fixed)
        lengths = inputs.lengths(of_item)
        if (expected := whole.lengths.at(lengths)) != of_item:
            raise ValueError(f"shapes={of_item} must be {expected}")
        return Finder(whole, lean, lengths)

    def _rows_of(self, names: tuple[str, ...], fixed: _Choices) -> tuple[Grid, Grid]:
        """Return the rows with the fixed values, and those of them that none other beats."""
        whole = self._grids[names]
        if fixed:
            rows = [
                r
                for r, row in enumerate(whole.rows)
                if all(row.get(axis) == value for axis, value in fixed)
            ]
            if not rows:
                raise ValueError(f"no row has the values {dict(fixed)}")
            whole = whole.part(np.array(rows))
        return whole, whole.without_dominated()


def _key(choices: Mapping[str, Value] | None) -> _Choices:
    return tuple(sorted(choices.items())) if choices else ()


def _sets_of_inputs(model: Elastic, table: Table) -> list[tuple[str, ...]]:
    """Return the sets of inputs that an item may have, each in the model's order."""
    axes = model.space.axes
    if not given_axes(axes):
        if optional := [name for name, slot in model.inputs.items() if not slot.required]:
            raise ValueError(f"input {optional[0]!r} may be missing, and no given axis says so")
        return [tuple(model.inputs)]
    return list(dict.fromkeys(inputs_of(axes, row) or () for row in table.rows))


class Finder:
    """Exact search over a model's table, for items of some shapes; shared by all requests."""

    def __init__(self, whole: Grid, lean: Grid, lengths: Mapping[str, int]) -> None:
        """Price the rows.

        Args:
            whole: Every row.
            lean: The same without those that another beats in MACs.
            lengths: Of each input that has one.
        """
        self._solver = Solver(whole, lean, lengths)
        self._reader = RequestReader(whole.tasks, self._solver.largest_macs)
        # Clients ask the same question again and again.
        self._remembered = lru_cache(_MAX_QUESTIONS)(self._find)

    @property
    def by_macs(self) -> View:
        """Costs and retentions, without the rows that another beats in MACs."""
        return self._solver.by_macs

    @property
    def grid(self) -> Grid:
        """Of the same rows."""
        return self.by_macs.grid

    @property
    def tasks(self) -> tuple[str, ...]:
        """The model's tasks."""
        return self.grid.tasks

    def find(
        self,
        tasks: Collection[str] | None = None,
        preferences: Mapping[str, float] | None = None,
        budget: Budget | None = None,
        tolerance: float = TOLERANCE,
        terms: Terms = Terms(),  # noqa: B008  # immutable
    ) -> Selection:
        """Return the best subnet within the budget.

        Args:
            tasks: What to answer; None for every task.
            preferences: Weight per task on any positive scale; None for equal weights. A task not
                named weighs 0: it is answered, as cheaply as possible.
            budget: None for no limit.
            tolerance: Quality (or, with ``min_quality``, fraction) that may be given up to answer
                sooner. 0 for the proven optimum.
            terms: Of the moment. A latency in the budget needs its ``max_seconds``: what the
                caller leaves of it for running.

        Raises:
            RequestError: If tasks or preferences make no sense.
            InfeasibleBudgetError: If no subnet meets the budget.
            NotResidentError: If none does of those whose weights are built, and another would.
            ValueError: If the budget has a latency and the terms no timing.
        """
        budget = budget or Budget()
        if budget.latency_ms is not None and terms.timing is None:
            raise ValueError("a latency budget needs terms with a timing")
        return self._remembered(self.request(tasks, preferences), budget, tolerance, terms)

    def _find(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> Selection:
        try:
            return self._solved(request, budget, tolerance, terms)
        except InfeasibleBudgetError as error:
            if terms.resident is None:
                raise
            nearest = error
        terms = terms._replace(resident=None)
        wanted = self._solved(request, budget, tolerance, terms)
        load = {axis: wanted.subnet[axis] for axis in self.grid.load_axes}
        raise NotResidentError(wanted, load, nearest)

    def _solved(
        self, request: Request, budget: Budget, tolerance: float, terms: Terms
    ) -> Selection:
        if terms.resident is not None and not self.grid.allowed(terms.resident).any():
            raise InfeasibleBudgetError("nothing is built", "resident", 0.0)
        solve = self._solver.best if budget.min_quality is None else self._solver.cheapest
        return self._described(request, solve(request, budget, tolerance, terms), terms)

    def front(
        self,
        tasks: Collection[str] | None = None,
        preferences: Mapping[str, float] | None = None,
        points: int = 20,
    ) -> list[Selection]:
        """Return points of the Pareto front of quality over MACs, cheapest first.

        Args:
            tasks: As in `find`.
            preferences: As in `find`.
            points: Budgets tried, evenly spaced from the cheapest subnet to the largest.
        """
        request = self.request(tasks, preferences)
        low = float(self.by_macs.options(request).lowest_cost.min())
        front: list[Selection] = []
        for macs in np.linspace(low, request.largest_macs, points):
            chosen = self._solver.best(request, Budget(macs=math.ceil(macs)), 0.0, Terms())
            selection = self._described(request, chosen, Terms())
            if not front or selection.quality > front[-1].quality + ROUNDING:
                front.append(selection)
        return front

    def request(
        self, tasks: Collection[str] | None, preferences: Mapping[str, float] | None
    ) -> Request:
        """Check and normalise what a client asks.

        Raises:
            RequestError: If a task is unknown or repeated, none is asked, or a weight is negative,
                not finite, for a task that is not asked, or all are zero.
        """
        return self._reader.read(tasks, preferences)

    def selection(self, request: Request, solution: Solution) -> Selection:
        """Describe a solution of a request, its row counted as in `grid`."""
        return self._described(request, Chosen(self.grid, solution), Terms())

    def _described(self, request: Request, chosen: Chosen, terms: Terms) -> Selection:
        solution = chosen.solution
        subnet, scores = chosen.grid.describe(solution.row, solution.columns, request.tasks)
        cost = self._solver.cost(request, chosen)
        return Selection(
            subnet=subnet,
            cost=cost,
            fraction=cost.macs / request.largest_macs,
            quality=self._solver.quality(request, chosen),
            gap=solution.gap,
            preferences=dict(zip(scores, request.weights.tolist(), strict=True)),
            scores=scores,
            seconds=self._seconds(request, chosen, terms),
        )

    def _seconds(self, request: Request, chosen: Chosen, terms: Terms) -> float | None:
        if terms.timing is None:
            return None
        return terms.pace * self._solver.microseconds(request, chosen, terms.timing) / 1e6

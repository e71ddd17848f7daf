"""From tasks, preferences, a budget and the moment's terms to a subnet."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from models.core import Cost
from models.space import Subnet, Value
from search.budget import Budget, InfeasibleBudgetError
from search.front import MOST_POINTS, front
from search.grid import Grid
from search.knapsack.solve import Solution
from search.knapsack.view import View
from search.pricing import Chosen
from search.quality.table import Score
from search.request import Request, RequestError, RequestReader, TaskSet
from search.solver import Solver
from search.terms import Terms
from search.timing.timing import Timing

__all__ = [
    "TOLERANCE",
    "Finder",
    "NotResidentError",
    "Request",
    "RequestError",
    "Selection",
    "Terms",
]

TOLERANCE = 1e-3
_MAX_TASK_SETS = 32
_MAX_QUESTIONS = 128  # answers of one finder that are kept, a few kilobytes each


@dataclass(frozen=True)
class Selection:
    """A subnet and what is known about it.

    Attributes:
        subnet: Choices on the shared axes and on those of the asked tasks.
        cost: For one input, the asked tasks only.
        fraction: MACs over those of the largest subnet for the same tasks.
        quality: Preference-weighted mean of the tasks' retention, which is that of the expected
            scores.
        error: Standard error of the quality; 0 where the table does not say.
        floor: What of it is kept without a doubt, where ``min_quality`` went by that; else None.
        gap: No feasible subnet has a quality above ``quality + gap``; where ``min_quality`` was
            set, none has a fraction below ``fraction - gap``. 0 means proven optimal. With a
            price, of quality less the price of the compute.
        preferences: Weight of each asked task, summing to 1.
        scores: Of each asked task.
        seconds: Predicted for running the items together; None without a timing.
        shared_seconds: Predicted for what they add to a full batch, at a pace of 1; likewise.
    """

    subnet: Subnet
    cost: Cost
    fraction: float
    quality: float
    gap: float
    preferences: Mapping[str, float]
    scores: Mapping[str, Score]
    seconds: float | None = None
    shared_seconds: float | None = None
    error: float = 0.0
    floor: float | None = None


class NotResidentError(InfeasibleBudgetError):
    """No subnet of which the weights are built fits the budget, but others would.

    Attributes:
        field: Of what is built, the part of the budget that cannot be met; ``resident`` if none
            of the rows is built at all.
        feasible: The nearest value of that field that can be met with what is built.
        wanted: The best subnet if everything were built; without its time.
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


@dataclass(frozen=True, eq=False)
class _Found:
    """An answer that stays while predictions of time change; compared by identity.

    Attributes:
        request: Answered.
        chosen: For it.
        selection: The same without a time.
    """

    request: Request
    chosen: Chosen
    selection: Selection


class Finder:
    """Exact search over a model's table, for items of some shapes; shared by all requests."""

    def __init__(
        self, whole: Grid, lean: Grid, lengths: Mapping[str, int], reader: RequestReader
    ) -> None:
        """Price the rows.

        Args:
            whole: Every row.
            lean: The same without those that another beats in MACs.
            lengths: Of each input that has one.
            reader: Of requests to the model.
        """
        self._solver = Solver(whole, lean, lengths)
        self._reader = reader
        self._largest: dict[TaskSet, int] = {}
        # Clients ask the same question again and again.
        self._known = lru_cache(_MAX_QUESTIONS)(self._request)
        self._remembered = lru_cache(_MAX_QUESTIONS)(self._find)
        self._microseconds = lru_cache(_MAX_QUESTIONS)(self._predicted)
        self._timed = lru_cache(_MAX_QUESTIONS)(self._with_seconds)

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
        if budget.min_quality is None:
            terms = terms._replace(floors=None)
        asked, lasting = self.request(tasks, preferences), terms
        if math.isinf(terms.max_seconds) and not terms.price:
            # Then predictions, which change, have no say.
            lasting = Terms(resident=terms.resident, floors=terms.floors)
            is_timed = budget.min_quality is not None and len(self.grid.loads) > 1
            if is_timed and terms.timing is not None:
                lasting = lasting._replace(timing=terms.timing.calibrated)
        found = self._remembered(asked, budget, tolerance, lasting)
        if terms.timing is None:
            return found.selection
        return self._timed(found, terms.timing, terms.pace)

    def _find(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> _Found:
        try:
            return self._solved(request, budget, tolerance, terms)
        except InfeasibleBudgetError as error:
            if terms.resident is None:
                raise
            nearest = error
        terms = terms._replace(resident=None)
        wanted = self._solved(request, budget, tolerance, terms).selection
        load = {axis: wanted.subnet[axis] for axis in self.grid.load_axes}
        raise NotResidentError(wanted, load, nearest)

    def _solved(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> _Found:
        if terms.resident is not None and not self._solver.has_any(terms.resident):
            raise InfeasibleBudgetError("nothing is built", "resident", 0.0)
        solve = self._solver.best if budget.min_quality is None else self._solver.cheapest
        chosen = solve(request, budget, tolerance, terms)
        return _Found(request, chosen, self._described(request, chosen, terms))

    def _with_seconds(self, found: _Found, timing: Timing, pace: float) -> Selection:
        alone, shared = self._microseconds(found, timing)
        return replace(found.selection, seconds=pace * alone / 1e6, shared_seconds=shared / 1e6)

    def _predicted(self, found: _Found, timing: Timing) -> tuple[float, float]:
        alone = self._solver.microseconds(found.request, found.chosen, timing)
        return alone, self._solver.shared_microseconds(found.request, found.chosen, timing)

    def front(
        self,
        tasks: Collection[str] | None = None,
        preferences: Mapping[str, float] | None = None,
        most: int = MOST_POINTS,
    ) -> list[Selection]:
        """Return the Pareto front of quality over MACs, cheapest first; see `search.front`.

        Args:
            tasks: As in `find`.
            preferences: As in `find`.
            most: Points.
        """
        request = self.request(tasks, preferences)
        least = float(self.by_macs.options(request).lowest_cost.min())

        def best(macs: int) -> Selection:
            chosen = self._solver.best(request, Budget(macs=macs), 0.0, Terms())
            return self._described(request, chosen)

        return front(best, least, request.largest_macs, most)

    def fractions(self, tasks: Collection[str] | None = None) -> dict[Subnet, float]:
        """Return of each row, with the best options of some tasks, the part of the most MACs."""
        request, view = self.request(tasks, None), self._solver.every_row
        costs = view.options(request).highest_cost / request.largest_macs
        return dict(zip(view.grid.rows, costs.tolist(), strict=True))

    def request(
        self, tasks: Collection[str] | None, preferences: Mapping[str, float] | None
    ) -> Request:
        """Check and normalise what a client asks.

        Raises:
            RequestError: If a task is unknown or repeated, none is asked, or a weight is negative,
                not finite, for a task that is not asked, or all are zero.
        """
        return self._known(
            None if tasks is None else tuple(tasks),
            None if preferences is None else tuple(preferences.items()),
        )

    def _request(
        self, tasks: tuple[str, ...] | None, preferences: tuple[tuple[str, float], ...] | None
    ) -> Request:
        weighed = None if preferences is None else dict(preferences)
        asked, weights = self._reader.read(tasks, weighed)
        if asked not in self._largest:
            if len(self._largest) >= _MAX_TASK_SETS:
                self._largest.clear()
            self._largest[asked] = self._solver.largest_macs(asked.index)
        return Request(asked.index, weights, self._largest[asked])

    def selection(self, request: Request, solution: Solution) -> Selection:
        """Describe a solution of a request, its row counted as in `grid`."""
        return self._described(request, Chosen(self.grid, solution))

    def _described(
        self,
        request: Request,
        chosen: Chosen,
        terms: Terms = Terms(),  # noqa: B008  # immutable
    ) -> Selection:
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
            error=self._solver.error(request, chosen),
            floor=self._solver.floor(request, chosen, terms),
        )

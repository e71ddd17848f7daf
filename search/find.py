"""From tasks, preferences, a budget and the moment's terms to a subnet."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from models.core import Cost, Shape
from models.elastic import Elastic
from models.space import Subnet, Value
from search.budget import Budget
from search.choose import ROUNDING, Choice, Chooser, Terms
from search.grid import Grid, build_grid
from search.knapsack.solve import Answer
from search.quality.table import Score, Table
from search.request import Reader, Request, RequestError
from search.timing.profile import Function

__all__ = ["TOLERANCE", "Finder", "Request", "RequestError", "Selection", "Terms"]

TOLERANCE = 1e-3
_MAX_QUESTIONS = 128  # answers kept, a few kilobytes each; a server has a finder per length of text


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
        seconds: Predicted for running the inputs together; None without a timing.
    """

    subnet: Subnet
    cost: Cost
    fraction: float
    quality: float
    gap: float
    preferences: Mapping[str, float]
    scores: Mapping[str, Score]
    seconds: float | None = None


class Finder:
    """Exact search over a model's table, for one input shape; immutable, shared by all requests."""

    def __init__(
        self,
        model: Elastic,
        shape: Shape,
        table: Table,
        fixed: Mapping[str, Value] | None = None,
    ) -> None:
        """Price the table and precompute the hulls.

        Args:
            model: Plans.
            shape: Of one input.
            table: Of the model.
            fixed: Values on shared axes that every answer must have; None for any.

        Raises:
            ValueError: If the model's plans or the table do not factorise by task, or no subnet
                has the fixed values.
        """
        self._whole = build_grid(model, shape, table, fixed or {})
        self._chooser = Chooser(self._whole)
        self._reader = Reader(self._whole)
        # Clients ask the same question again and again.
        self._remembered = lru_cache(_MAX_QUESTIONS)(self._find)

    @property
    def grid(self) -> Grid:
        """Costs and retentions, without the rows that another beats in MACs."""
        return self._chooser.by_macs.grid

    @property
    def functions(self) -> Collection[Function]:
        """What the steps of every subnet compute."""
        return self._whole.functions

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
            ValueError: If the budget has a latency and the terms no timing.
        """
        budget = budget or Budget()
        if budget.latency_ms is not None and terms.timing is None:
            raise ValueError("a latency budget needs terms with a timing")
        return self._remembered(self.request(tasks, preferences), budget, tolerance, terms)

    def _find(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> Selection:
        search = self._chooser.best if budget.min_quality is None else self._chooser.cheapest
        return self._described(request, search(request, budget, tolerance, terms), terms)

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
        low = float(self._chooser.by_macs.asked(request).lowest_cost.min())
        front: list[Selection] = []
        for macs in np.linspace(low, request.largest_macs, points):
            choice = self._chooser.best(request, Budget(macs=math.ceil(macs)), 0.0, Terms())
            selection = self._described(request, choice, Terms())
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

    def selection(self, request: Request, answer: Answer) -> Selection:
        """Describe an answer to a request, its row counted as in `grid`."""
        return self._described(request, Choice(self._chooser.by_macs, answer), Terms())

    def _described(self, request: Request, choice: Choice, terms: Terms) -> Selection:
        grid, answer = choice.view.grid, choice.answer
        subnet, cost, scores = grid.describe(answer.row, answer.columns, request.tasks)
        return Selection(
            subnet=subnet,
            cost=cost,
            fraction=cost.macs / request.largest_macs,
            quality=self._chooser.quality(request, choice),
            gap=answer.gap,
            preferences=dict(zip(scores, request.weights.tolist(), strict=True)),
            scores=scores,
            seconds=self._seconds(request, choice, terms),
        )

    def _seconds(self, request: Request, choice: Choice, terms: Terms) -> float | None:
        if terms.timing is None:
            return None
        return terms.pace * self._chooser.microseconds(request, choice, terms.timing) / 1e6

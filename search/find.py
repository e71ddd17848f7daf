"""From tasks, preferences and a budget to a subnet."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from models.core import Cost, Elastic, Shape, Subnet, Value
from search.asked import Asked, hulls
from search.budget import Budget, InfeasibleBudgetError, too_small
from search.grid import Grid, IntArray, build_grid
from search.question import Best, Cheapest
from search.solve import Answer, solve
from search.table import FloatArray, Score, Table

# Slack for sums of preference-weighted retentions, far below any difference worth serving.
_ROUNDING = 1e-9
TOLERANCE = 1e-3
_ONE_MAC = 0.5  # MACs are whole: less than this apart is the same
_MAX_QUESTIONS = 1024  # answers kept, a few kilobytes each
_MAX_TASK_SETS = 32  # sets of asked tasks whose arrays are kept, a few hundred kilobytes each


class RequestError(ValueError):
    """Tasks or preferences make no sense. The message says what is allowed.

    Attributes:
        field: ``tasks`` or ``preferences``, with the entry where there is one.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


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
            set, none has a fraction below ``fraction - gap``. 0 means proven optimal.
        preferences: Weight of each asked task, summing to 1.
        scores: Of each asked task.
    """

    subnet: Subnet
    cost: Cost
    fraction: float
    quality: float
    gap: float
    preferences: Mapping[str, float]
    scores: Mapping[str, Score]


@dataclass(frozen=True, eq=False)
class Request:
    """Checked tasks and weights; equal and hashed by value.

    Attributes:
        tasks: Positions of the asked tasks, ascending.
        weights: Summing to 1, shape [asked tasks].
        largest_macs: MACs of the largest subnet for these tasks.
        names: The tasks as they were asked, under which their arrays are kept; not the arrays, as
            remembered questions would keep them all.
    """

    tasks: IntArray
    weights: FloatArray
    largest_macs: int
    names: tuple[str, ...]

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self._key == other._key

    @cached_property
    def _key(self) -> bytes:
        return self.tasks.tobytes() + self.weights.tobytes()


class _Tasks:
    """What depends on the tasks of a request alone."""

    def __init__(self, grid: Grid, columns: IntArray, names: tuple[str, ...]) -> None:
        self.names = frozenset(names)
        self.index = np.array([i for i, task in enumerate(grid.tasks) if task in self.names])
        self.ordered = [grid.tasks[i] for i in self.index.tolist()]
        self.largest_macs = grid.largest_trunk_macs + int(
            grid.largest_branch_macs[self.index].sum()
        )
        self.asked = Asked.of(grid, self.index, columns)


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
        self.grid = build_grid(model, shape, table, fixed or {})
        columns = hulls(self.grid.branch_macs, self.grid.retention)
        # Clients ask the same question again and again.
        self._remembered = lru_cache(_MAX_QUESTIONS)(self._find)
        self._prepared = lru_cache(_MAX_TASK_SETS)(
            lambda names: _Tasks(self.grid, columns, self._check_tasks(names))
        )

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
    ) -> Selection:
        """Return the best subnet within the budget.

        Args:
            tasks: What to answer; None for every task.
            preferences: Weight per task on any positive scale; None for equal weights. A task not
                named weighs 0: it is answered, as cheaply as possible.
            budget: None for no limit.
            tolerance: Quality (or, with ``min_quality``, fraction) that may be given up to answer
                sooner. 0 for the proven optimum.

        Raises:
            RequestError: If tasks or preferences make no sense.
            InfeasibleBudgetError: If no subnet meets the budget.
        """
        request = self.request(tasks, preferences)
        return self._remembered(request, budget or Budget(), tolerance)

    def _find(self, request: Request, budget: Budget, tolerance: float) -> Selection:
        if budget.min_quality is None:
            return self.selection(request, self._best(request, budget, tolerance))
        answer = self._cheapest(request, budget, budget.min_quality, tolerance)
        # MACs are whole, so that less than one off is none.
        gap = math.floor(answer.gap) / request.largest_macs
        return self.selection(request, answer._replace(gap=gap))

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
        low = float(self._arrays(request).lowest_macs.min())
        front: list[Selection] = []
        for macs in np.linspace(low, request.largest_macs, points):
            answer = self._best(request, Budget(macs=math.ceil(macs)), 0.0)
            selection = self.selection(request, answer)
            if not front or selection.quality > front[-1].quality + _ROUNDING:
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
        names = self.tasks if tasks is None else tuple(tasks)
        prepared = self._prepared(names)
        given = [1.0] * len(prepared.ordered)
        if preferences is not None:
            given = [preferences.get(task, 0.0) for task in prepared.ordered]
            is_sound = min(given) >= 0 and 0 < sum(given) < math.inf  # also not with a NaN
            if not (is_sound and preferences.keys() <= prepared.names):
                _check_preferences(preferences, prepared.ordered)
        largest = max(given)
        given = [weight / largest for weight in given]  # neither tiny nor huge ones lose the sum
        weights = np.array(given) / sum(given)
        return Request(prepared.index, weights, prepared.largest_macs, names)

    def _check_tasks(self, asked: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [task for task in asked if task not in self.tasks]:
            raise RequestError(f"unknown task {unknown[0]!r}; one of {list(self.tasks)}", "tasks")
        if not asked or len(set(asked)) != len(asked):
            raise RequestError(f"tasks={list(asked)} must name at least one, each once", "tasks")
        return asked

    def _arrays(self, request: Request) -> Asked:
        return self._prepared(request.names).asked

    def _best(self, request: Request, budget: Budget, tolerance: float) -> Answer:
        """Maximise quality with MACs under the ceiling."""
        ceiling, field = budget.max_macs(request.largest_macs)
        answer = solve(Best(self._arrays(request), request.weights, ceiling), tolerance)
        if answer is None:
            assert field is not None
            raise too_small(
                field,
                budget,
                int(self._arrays(request).lowest_macs.min()),
                request.largest_macs,
            )
        return answer

    def _cheapest(self, request: Request, budget: Budget, floor: float, tolerance: float) -> Answer:
        """Minimise MACs with quality at least the floor, and check the ceiling."""
        question = Cheapest(self._arrays(request), request.weights, floor - _ROUNDING)
        answer = solve(question, max(_ONE_MAC, tolerance * request.largest_macs))
        if answer is None:
            best = float(question.highest.max())
            shown = math.floor(best * 1e6) / 1e6  # rounded down, so that it is itself accepted
            raise InfeasibleBudgetError(
                f"budget.min_quality={floor:g} cannot be kept; the best subnet keeps {shown}",
                "min_quality",
                best,
            )
        ceiling, field = budget.max_macs(request.largest_macs)
        if -answer.gain > ceiling and tolerance > 0:
            return self._cheapest(request, budget, floor, 0.0)
        if -answer.gain > ceiling:
            assert field is not None
            raise too_small(
                field, budget, int(-answer.gain), request.largest_macs, f" that keeps {floor:g}"
            )
        return answer

    def selection(self, request: Request, answer: Answer) -> Selection:
        """Describe an answer to a request."""
        subnet, cost, scores = self.grid.describe(answer.row, answer.columns, request.tasks)
        retention = self.grid.retention[answer.row]
        return Selection(
            subnet=subnet,
            cost=cost,
            fraction=cost.macs / request.largest_macs,
            quality=float(request.weights @ retention[answer.columns, request.tasks]),
            gap=answer.gap,
            preferences=dict(zip(scores, request.weights.tolist(), strict=True)),
            scores=scores,
        )


def _check_preferences(preferences: Mapping[str, float], asked: Collection[str]) -> None:
    for task, weight in preferences.items():
        field = f"preferences.{task}"
        if task not in asked:
            raise RequestError(f"{field}: the task is not asked for; tasks={list(asked)}", field)
        if not (math.isfinite(weight) and weight >= 0):
            raise RequestError(f"{field}={weight} must be finite and at least 0", field)
    if not any(preferences.values()):
        raise RequestError(
            "preferences must give at least one task a weight above 0", "preferences"
        )

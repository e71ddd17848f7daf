"""The best choice, or the cheapest, under ceilings in MACs and in time.

One resource is a knapsack (`search.knapsack.question`). Of two, one is relaxed: where its ceiling
holds anyway, the answer is exact; only where both bind is there a gap.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from search.budget import Budget, InfeasibleBudgetError, TooSlowError, too_small
from search.grid import Grid, Priced
from search.knapsack.question import Best, Cheapest
from search.knapsack.solve import Answer, solve
from search.knapsack.view import View
from search.request import Request
from search.timing.profile import Timing

# Slack for sums of preference-weighted retentions, far below any difference worth serving.
ROUNDING = 1e-9
_ONE = 0.5  # MACs are whole, and microseconds fine enough: less than this apart is the same
_MAX_TIMINGS = 8  # views in time kept, one for each number of inputs; a megabyte each at most
_TRIES = 32  # ceilings tried where two bind at once


class Terms(NamedTuple):
    """What a server adds to a client's budget at this moment.

    Attributes:
        price: Quality given up for compute worth that of the largest subnet; 0 to spend freely.
        timing: What time is predicted from; None where none is asked for.
        max_seconds: For running the request's inputs, together.
        pace: Seconds that a predicted second lately took.
    """

    price: float = 0.0
    timing: Timing | None = None
    max_seconds: float = math.inf
    pace: float = 1.0

    @property
    def max_microseconds(self) -> float:
        """What is left for running, as the timing counts."""
        return 1e6 * self.max_seconds / self.pace


class Choice(NamedTuple):
    """An answer and the view whose rows it counts."""

    view: View
    answer: Answer

    def price(self, priced: Priced, request: Request) -> float:
        """Return what it costs in a resource in which the view's cells are priced."""
        row, columns = self.answer.row, self.answer.columns
        return float(priced.trunk[row] + priced.branch[row, columns, request.tasks].sum())


class Chooser:
    """Solves requests over one grid.

    Attributes:
        by_macs: The rows that can be the answer when MACs are limited.
    """

    def __init__(self, grid: Grid) -> None:
        self.by_macs = View(grid, grid.macs)
        self._by_time = lru_cache(_MAX_TIMINGS)(
            lambda timing: View(grid, grid.times(timing.microseconds(grid.functions)))
        )

    def quality(self, request: Request, choice: Choice) -> float:
        """Return the weighted retention."""
        retention = choice.view.grid.retention[choice.answer.row]
        return float(request.weights @ retention[choice.answer.columns, request.tasks])

    def microseconds(self, request: Request, choice: Choice, timing: Timing) -> float:
        """Predict how long a choice runs."""
        grid = choice.view.grid
        return choice.price(grid.times(timing.microseconds(grid.functions)), request)

    def best(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> Choice:
        """Maximise quality, less the price of compute, under the ceilings."""
        ceiling, field = budget.max_macs(request.largest_macs)
        asked, weights = self.by_macs.asked(request), request.weights
        price = terms.price / request.largest_macs
        answer = solve(Best(asked, weights, ceiling, price), tolerance)
        if answer is None:
            assert field is not None
            raise too_small(field, budget, int(asked.lowest_cost.min()), request.largest_macs)
        choice = Choice(self.by_macs, answer)
        if terms.timing is None or math.isinf(terms.max_seconds):
            return choice
        if self.microseconds(request, choice, terms.timing) <= terms.max_microseconds:
            return choice
        view = self._by_time(terms.timing)
        asked = view.asked(request)
        price = terms.price / float(asked.highest_cost.max())
        answer = solve(Best(asked, weights, terms.max_microseconds, price), tolerance)
        if answer is None:
            fastest = terms.pace * float(asked.lowest_cost.min()) / 1e6
            cheapest = self._cheapest_s(request, terms.timing, terms.pace)
            raise TooSlowError(_latency_ms(budget, terms), fastest, "", cheapest)
        fast = Choice(view, answer)
        if fast.price(view.grid.macs, request) <= ceiling:
            return fast
        return self._under_both(request, budget, tolerance, terms, (choice, fast))

    def _cheapest_s(self, request: Request, timing: Timing, pace: float) -> float:
        """Predict how long the subnet of fewest MACs runs."""
        asked = self.by_macs.asked(request)
        answer = solve(Best(asked, request.weights, float(asked.lowest_cost.min()), 0.0), 0.0)
        assert answer is not None, "the cheapest is as cheap as itself"
        return pace * self.microseconds(request, Choice(self.by_macs, answer), timing) / 1e6

    def _under_both(
        self,
        request: Request,
        budget: Budget,
        tolerance: float,
        terms: Terms,
        relaxed: tuple[Choice, Choice],
    ) -> Choice:
        """Lower the ceiling in MACs until the best choice under it is fast enough as well.

        Exact where tasks have no axes of their own; elsewhere the gap says what may be missing.

        Args:
            request: As in `best`.
            budget: Likewise.
            tolerance: Likewise.
            terms: Likewise; both its ceiling and the budget's bind.
            relaxed: The best under each of the two alone.
        """
        assert terms.timing is not None
        view, limit = self.by_macs, terms.max_microseconds
        times = view.grid.times(terms.timing.microseconds(view.grid.functions))
        fastest = times.trunk + times.branch[..., request.tasks].min(axis=1).sum(axis=1)
        asked = view.asked(request)
        ceiling, field = budget.max_macs(request.largest_macs)
        price = terms.price / request.largest_macs
        for macs in np.linspace(ceiling, float(asked.lowest_cost.min()), _TRIES):
            best = Best(asked, request.weights, macs, price, fastest <= limit)
            answer = solve(best, tolerance)
            if answer is None:
                break
            choice = Choice(view, answer)
            if choice.price(times, request) <= limit:
                bound = min(self.quality(request, c) + c.answer.gap for c in relaxed)
                gap = max(answer.gap, bound - self.quality(request, choice))
                return choice._replace(answer=answer._replace(gap=gap))
        # The cheapest subnet keeps the ceiling, so its time is a latency that would do.
        cheapest = solve(Best(asked, request.weights, float(asked.lowest_cost.min())), tolerance)
        assert cheapest is not None, "the ceiling alone can be met"
        seconds = terms.pace * Choice(view, cheapest).price(times, request) / 1e6
        raise TooSlowError(_latency_ms(budget, terms), seconds, f" within budget.{field}")

    def cheapest(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> Choice:
        """Minimise MACs with quality at least the floor, and check the ceilings."""
        floor = budget.min_quality
        assert floor is not None
        question = Cheapest(self.by_macs.asked(request), request.weights, floor - ROUNDING)
        answer = solve(question, max(_ONE, tolerance * request.largest_macs))
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
            return self.cheapest(request, budget, 0.0, terms)
        suffix = f" that keeps {floor:g}"
        if -answer.gain > ceiling:
            assert field is not None
            raise too_small(field, budget, int(-answer.gain), request.largest_macs, suffix)
        # MACs are whole, so that less than one off is none.
        answer = answer._replace(gap=math.floor(answer.gap) / request.largest_macs)
        choice = Choice(self.by_macs, answer)
        limit = terms.max_microseconds
        if terms.timing is None or math.isinf(limit):
            return choice
        if self.microseconds(request, choice, terms.timing) <= limit:
            return choice
        view = self._by_time(terms.timing)
        fastest = solve(Cheapest(view.asked(request), request.weights, floor - ROUNDING), _ONE)
        assert fastest is not None, "a quality can be kept or not, whatever is counted"
        if -fastest.gain > limit:
            seconds = terms.pace * -fastest.gain / 1e6
            cheapest = terms.pace * self.microseconds(request, choice, terms.timing) / 1e6
            raise TooSlowError(_latency_ms(budget, terms), seconds, suffix, cheapest)
        fast = Choice(view, fastest)
        macs = fast.price(view.grid.macs, request)
        if macs > ceiling:
            assert field is not None
            raise too_small(field, budget, int(macs), request.largest_macs, suffix)
        gap = (macs + answer.gain) / request.largest_macs
        return fast._replace(answer=fastest._replace(gap=gap))


def _latency_ms(budget: Budget, terms: Terms) -> float:
    return 1000 * terms.max_seconds if budget.latency_ms is None else budget.latency_ms

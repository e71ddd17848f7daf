"""The best choice, or the cheapest, under ceilings in MACs and in time.

One resource is a multiple-choice knapsack (`search.knapsack.objective`). Of two, one is relaxed:
where its ceiling holds anyway, the answer is exact; only where both bind is there a gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from models.core import Cost
from search.budget import Budget, InfeasibleBudgetError, TooSlowError, too_small
from search.grid import Grid, Resident
from search.knapsack.objective import Best, Cheapest
from search.knapsack.solve import Solution, solve
from search.knapsack.view import View
from search.lengths import IntArray
from search.quality.table import BoolArray
from search.request import Request
from search.terms import Terms
from search.timed import TimedViews
from search.timing.timing import SHARED, Timing

# Slack for sums of preference-weighted retentions, far below any difference worth serving.
ROUNDING = 1e-9
_ONE = 0.5  # MACs are whole, and microseconds fine enough: less than this apart is the same
_TRIES = 32  # ceilings tried where two bind at once


class Chosen(NamedTuple):
    """A solution and the grid whose rows it counts."""

    grid: Grid
    solution: Solution


class Solver:
    """Solves requests over the rows of a model at some lengths.

    Attributes:
        by_macs: The rows that can be the answer when MACs are limited and the weights are there
            that the model is loaded with.
    """

    def __init__(self, whole: Grid, lean: Grid, lengths: Mapping[str, int]) -> None:
        """Price the rows.

        Args:
            whole: Every row.
            lean: The same without those that another beats in MACs.
            lengths: Of each input that has one.

        Raises:
            ValueError: If an input cannot have this length.
        """
        self._basis = basis = whole.lengths.basis(lengths)
        self.by_macs = View(lean, lean.macs(basis))
        self._whole = whole
        self._timed = TimedViews(whole, lengths)

    @cached_property
    def _every_row(self) -> View:
        return View(self._whole, self._whole.macs(self._basis))

    def has_any(self, resident: Resident) -> bool:
        """Return whether the weights of any row are built."""
        return bool(self._whole.allowed(resident).any())

    def _by_macs(self, terms: Terms) -> View:
        """Return the rows that can be the answer when MACs are limited."""
        is_loaded_there = terms.resident is None or self._whole.loaded in terms.resident
        return self.by_macs if is_loaded_there else self._every_row

    def largest_macs(self, tasks: IntArray) -> int:
        """Return the MACs of the largest subnet for some tasks and the inputs that are there."""
        return self._whole.largest_macs(tasks, self._basis)

    def cost(self, request: Request, chosen: Chosen) -> Cost:
        """Return what a choice costs."""
        row, columns = chosen.solution.row, chosen.solution.columns
        return chosen.grid.cost(self._basis, row, columns, request.tasks)

    def quality(self, request: Request, chosen: Chosen) -> float:
        """Return the weighted retention."""
        retention = chosen.grid.retention[chosen.solution.row]
        return float(request.weights @ retention[chosen.solution.columns, request.tasks])

    def microseconds(self, request: Request, chosen: Chosen, timing: Timing) -> float:
        """Predict how long a choice runs."""
        row, columns = chosen.solution.row, chosen.solution.columns
        return chosen.grid.time(self._timed.at(timing).microseconds, row, columns, request.tasks)

    def shared_microseconds(self, request: Request, chosen: Chosen, timing: Timing) -> float:
        """Predict what a choice adds to a full batch."""
        return self.microseconds(request, chosen, timing.shared) / SHARED

    def best(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> Chosen:
        """Maximise quality, less the price of time or of compute, under the ceilings."""
        is_timed = terms.price > 0 and terms.timing is not None
        if is_timed and (priced := self._best_by_time(request, budget, tolerance, terms)):
            return priced
        ceiling, field = budget.max_macs(request.largest_macs)
        view, weights = self._by_macs(terms), request.weights
        price = terms.price / request.largest_macs
        allowed = _allowed(view, terms)
        within = Best(view.options(request), weights, ceiling, price, allowed)
        found = solve(within, tolerance)
        if found is None:
            assert field is not None
            raise too_small(field, budget, int(within.least_cost), request.largest_macs)
        chosen = Chosen(view.grid, found)
        if terms.timing is None or math.isinf(terms.max_seconds):
            return chosen
        if self.microseconds(request, chosen, terms.timing) <= terms.max_microseconds:
            return chosen
        view = self._timed.at(terms.timing).view
        options = view.options(request)
        price = terms.price / float(options.highest_cost.max())
        in_time = Best(options, weights, terms.max_microseconds, price, _allowed(view, terms))
        found = solve(in_time, tolerance)
        if found is None:
            fastest = terms.pace * in_time.least_cost / 1e6
            cheapest = self._cheapest_s(request, terms)
            raise TooSlowError(_latency_ms(budget, terms), fastest, "", cheapest)
        fast = Chosen(view.grid, found)
        if self.cost(request, fast).macs <= ceiling:
            return fast
        return self._under_both(request, budget, tolerance, terms, (chosen, fast))

    def _best_by_time(
        self, request: Request, budget: Budget, tolerance: float, terms: Terms
    ) -> Chosen | None:
        """Maximise quality less the price of time; None if a ceiling may forbid the best choice."""
        assert terms.timing is not None
        ceiling, _ = budget.max_macs(request.largest_macs)
        view = self._timed.at(terms.timing.shared).view
        options = view.options(request)
        allowed = _allowed(view, terms)
        if math.isfinite(ceiling):
            may_fit = self._every_row.options(request).lowest_cost <= ceiling
            allowed = may_fit if allowed is None else allowed & may_fit
        price = terms.price / float(options.highest_cost.max())
        found = solve(Best(options, request.weights, math.inf, price, allowed), tolerance)
        chosen = None if found is None else Chosen(view.grid, found)
        is_kept = chosen is not None and self._keeps(request, budget, terms, chosen)
        return chosen if is_kept else None

    def _cheapest_by_time(
        self, request: Request, budget: Budget, tolerance: float, terms: Terms
    ) -> Chosen | None:
        """Minimise time with quality at least the floor; None if a ceiling may forbid that.

        Time is as calibrated. Corrections follow what has run: a subnet that runs slowly because it
        is new would be left for another new one, again and again.
        """
        assert terms.timing is not None
        assert budget.min_quality is not None
        view = self._timed.at(terms.timing.calibrated.shared).view
        options, allowed = view.options(request), _allowed(view, terms)
        most_us = float(options.highest_cost.max())
        keeping = Cheapest(options, request.weights, budget.min_quality - ROUNDING, allowed)
        found = solve(keeping, max(_ONE, tolerance * most_us))
        if found is None:
            return None
        chosen = Chosen(view.grid, found._replace(gap=found.gap / most_us))
        return chosen if self._keeps(request, budget, terms, chosen) else None

    def _keeps(self, request: Request, budget: Budget, terms: Terms, chosen: Chosen) -> bool:
        """Return whether a choice is under both ceilings."""
        assert terms.timing is not None
        run_us = self.microseconds(request, chosen, terms.timing)
        macs = self.cost(request, chosen).macs
        ceiling, _ = budget.max_macs(request.largest_macs)
        return macs <= ceiling and run_us <= terms.max_microseconds

    def _cheapest_s(self, request: Request, terms: Terms) -> float:
        """Predict how long the subnet of fewest MACs runs."""
        assert terms.timing is not None
        view = self._by_macs(terms)
        options, allowed = view.options(request), _allowed(view, terms)
        least = Best(options, request.weights, math.inf, 0.0, allowed).least_cost
        found = solve(Best(options, request.weights, least, 0.0, allowed))
        assert found is not None, "the cheapest is as cheap as itself"
        run_us = self.microseconds(request, Chosen(view.grid, found), terms.timing)
        return terms.pace * run_us / 1e6

    def _under_both(
        self,
        request: Request,
        budget: Budget,
        tolerance: float,
        terms: Terms,
        relaxed: tuple[Chosen, Chosen],
    ) -> Chosen:
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
        view, limit = self._every_row, terms.max_microseconds
        is_fast = self._timed.at(terms.timing).view.options(request).lowest_cost <= limit
        if terms.resident is not None:
            is_fast &= view.grid.allowed(terms.resident)
        options = view.options(request)
        ceiling, field = budget.max_macs(request.largest_macs)
        price = terms.price / request.largest_macs
        least = float(options.lowest_cost[is_fast].min(initial=ceiling))
        for macs in np.linspace(ceiling, least, _TRIES):
            found = solve(Best(options, request.weights, macs, price, is_fast), tolerance)
            if found is None:
                break
            chosen = Chosen(view.grid, found)
            if self.microseconds(request, chosen, terms.timing) <= limit:
                bound = min(self.quality(request, c) + c.solution.gap for c in relaxed)
                gap = max(found.gap, bound - self.quality(request, chosen))
                return chosen._replace(solution=found._replace(gap=gap))
        # The cheapest subnet keeps the ceiling, so its time is a latency that would do.
        seconds = self._cheapest_s(request, terms)
        raise TooSlowError(_latency_ms(budget, terms), seconds, f" within budget.{field}")

    def cheapest(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> Chosen:
        """Minimise cost with quality at least the floor, and check the ceilings.

        Cost is MACs. It is time where rows differ in their weights: fewer bits save that alone.
        """
        floor = budget.min_quality
        assert floor is not None
        is_timed = terms.timing is not None and len(self._whole.loads) > 1
        if is_timed and (timed := self._cheapest_by_time(request, budget, tolerance, terms)):
            return timed
        view, weights = self._by_macs(terms), request.weights
        keeping = Cheapest(view.options(request), weights, floor - ROUNDING, _allowed(view, terms))
        found = solve(keeping, max(_ONE, tolerance * request.largest_macs))
        if found is None:
            best = keeping.most_value
            shown = math.floor(best * 1e6) / 1e6  # rounded down, so that it is itself accepted
            raise InfeasibleBudgetError(
                f"budget.min_quality={floor:g} cannot be kept; the best subnet keeps {shown}",
                "min_quality",
                best,
            )
        ceiling, field = budget.max_macs(request.largest_macs)
        if -found.gain > ceiling and tolerance > 0:
            return self.cheapest(request, budget, 0.0, terms)
        suffix = f" that keeps {floor:g}"
        if -found.gain > ceiling:
            assert field is not None
            raise too_small(field, budget, int(-found.gain), request.largest_macs, suffix)
        # MACs are whole, so that less than one off is none.
        found = found._replace(gap=math.floor(found.gap) / request.largest_macs)
        chosen = Chosen(view.grid, found)
        limit = terms.max_microseconds
        if terms.timing is None or math.isinf(limit):
            return chosen
        if self.microseconds(request, chosen, terms.timing) <= limit:
            return chosen
        view = self._timed.at(terms.timing).view
        fastest = solve(
            Cheapest(view.options(request), weights, floor - ROUNDING, _allowed(view, terms)), _ONE
        )
        assert fastest is not None, "a quality can be kept or not, whatever is counted"
        if -fastest.gain > limit:
            seconds = terms.pace * -fastest.gain / 1e6
            cheapest = terms.pace * self.microseconds(request, chosen, terms.timing) / 1e6
            raise TooSlowError(_latency_ms(budget, terms), seconds, suffix, cheapest)
        fast = Chosen(view.grid, fastest)
        macs = self.cost(request, fast).macs
        if macs > ceiling:
            assert field is not None
            raise too_small(field, budget, macs, request.largest_macs, suffix)
        gap = (macs + found.gain) / request.largest_macs
        return fast._replace(solution=fastest._replace(gap=gap))


def _allowed(view: View, terms: Terms) -> BoolArray | None:
    return None if terms.resident is None else view.grid.allowed(terms.resident)


def _latency_ms(budget: Budget, terms: Terms) -> float:
    return 1000 * terms.max_seconds if budget.latency_ms is None else budget.latency_ms

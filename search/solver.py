"""The best choice, or the cheapest, under ceilings in MACs, in time and in bytes of weights.

One resource is a multiple-choice knapsack (`search.knapsack.objective`). Of several, all but one
are relaxed: where their ceilings hold anyway, the answer is exact; only where more than one binds
is there a gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from search.budget import Budget, InfeasibleBudgetError, TooSlowError
from search.knapsack.objective import Best, Cheapest
from search.knapsack.solve import solve
from search.knapsack.view import View
from search.pricing import BYTES, TIME, Chosen, Prices, latency_ms
from search.request import Request
from search.terms import Terms

# Slack for sums of preference-weighted retentions, far below any difference worth serving.
ROUNDING = 1e-9
_ONE = 0.5  # MACs are whole, and microseconds fine enough: less than this apart is the same
_TRIES = 32  # ceilings tried where several bind at once


class Solver(Prices):
    """Solves requests over the rows of a model at some lengths."""

    def best(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> Chosen:
        """Maximise quality, less the price of time or of compute, under the ceilings."""
        self.check_bytes(request, budget, terms)
        is_timed = terms.price > 0 and terms.timing is not None
        if is_timed and (priced := self._best_by_time(request, budget, tolerance, terms)):
            return priced
        relaxed = []
        for ceiling in self.ceilings(request, budget, terms):
            options = ceiling.view.options(request)
            is_macs = ceiling.field not in (TIME, BYTES)
            most = request.largest_macs if is_macs else float(options.highest_cost.max())
            allowed = self.allowed(ceiling.view, request, budget, terms)
            within = Best(options, request.weights, ceiling.most, terms.price / most, allowed)
            found = solve(within, tolerance)
            if found is None:
                raise self.too_small(ceiling.field, request, budget, terms, within.least_cost)
            chosen = Chosen(ceiling.view.grid, found)
            if self.keeps(request, budget, terms, chosen, ceiling.field):
                return chosen
            relaxed.append(chosen)
        return self._under_all(request, budget, tolerance, terms, relaxed)

    def _best_by_time(
        self, request: Request, budget: Budget, tolerance: float, terms: Terms
    ) -> Chosen | None:
        """Maximise quality less the price of time; None if a ceiling may forbid the best choice."""
        assert terms.timing is not None
        ceiling, _ = budget.max_macs(request.largest_macs)
        view = self.timed.at(terms.timing.shared).view
        options = view.options(request)
        allowed = self.allowed(view, request, budget, terms)
        if math.isfinite(ceiling):
            may_fit = self.every_row.options(request).lowest_cost <= ceiling
            allowed = may_fit if allowed is None else allowed & may_fit
        price = terms.price / float(options.highest_cost.max())
        found = solve(Best(options, request.weights, math.inf, price, allowed), tolerance)
        chosen = None if found is None else Chosen(view.grid, found)
        is_kept = chosen is not None and self.keeps(request, budget, terms, chosen)
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
        view = self.timed.at(terms.timing.calibrated.shared).view
        options = view.options(request, terms.floors)
        allowed = self.allowed(view, request, budget, terms)
        most_us = float(options.highest_cost.max())
        keeping = Cheapest(options, request.weights, budget.min_quality - ROUNDING, allowed)
        found = solve(keeping, max(_ONE, tolerance * most_us))
        if found is None:
            return None
        chosen = Chosen(view.grid, found._replace(gap=found.gap / most_us))
        return chosen if self.keeps(request, budget, terms, chosen) else None

    def _under_all(
        self,
        request: Request,
        budget: Budget,
        tolerance: float,
        terms: Terms,
        relaxed: Sequence[Chosen],
    ) -> Chosen:
        """Lower the ceiling in MACs until the best choice under it keeps the others as well.

        Exact where tasks have no axes of their own; elsewhere the gap says what may be missing.

        Args:
            request: As in `best`.
            budget: Likewise.
            tolerance: Likewise.
            terms: Likewise; several ceilings bind.
            relaxed: The best under each alone.
        """
        view = self.every_row
        options = view.options(request)
        in_macs, *others = self.ceilings(request, budget, terms)
        may_be = np.ones(len(options.lowest_cost), dtype=np.bool_)
        if terms.resident is not None:
            may_be &= view.grid.allowed(terms.resident)
        for ceiling in others:
            may_be &= ceiling.view.options(request).lowest_cost <= ceiling.most
        most = min(in_macs.most, float(options.highest_cost.max()))
        least = float(options.lowest_cost[may_be].min(initial=most))
        price = terms.price / request.largest_macs
        chosen = relaxed[0]
        for macs in np.linspace(most, least, _TRIES):
            found = solve(Best(options, request.weights, macs, price, may_be), tolerance)
            if found is None:
                break
            chosen = Chosen(view.grid, found)
            if self.keeps(request, budget, terms, chosen, in_macs.field):
                bound = min(self.quality(request, c) + c.solution.gap for c in relaxed)
                gap = max(found.gap, bound - self.quality(request, chosen))
                return chosen._replace(solution=found._replace(gap=gap))
        suffix = "" if math.isinf(in_macs.most) else f" within budget.{in_macs.field}"
        if others[0].field == TIME:
            # The cheapest subnet keeps the ceiling, so its time is a latency that would do.
            seconds = self.cheapest_s(request, budget, terms)
            suffix = suffix or f" within budget.{BYTES}"
            raise TooSlowError(latency_ms(budget, terms), seconds, suffix)
        # The last choice keeps the ceiling in MACs, so its bytes would do.
        held = self.cost(request, chosen).bytes
        raise self.too_small(BYTES, request, budget, terms, held, suffix)

    def cheapest(self, request: Request, budget: Budget, tolerance: float, terms: Terms) -> Chosen:
        """Minimise cost with quality at least the floor, and check the ceilings.

        Cost is MACs. It is time where rows differ in their weights: fewer bits save that alone.
        """
        assert budget.min_quality is not None
        self.check_bytes(request, budget, terms)
        is_timed = terms.timing is not None and len(self.whole.loads) > 1
        if is_timed and (timed := self._cheapest_by_time(request, budget, tolerance, terms)):
            return timed
        in_macs, *others = self.ceilings(request, budget, terms)
        keeping = self._keeping(in_macs.view, request, budget, terms)
        found = solve(keeping, max(_ONE, tolerance * request.largest_macs))
        if found is None:
            best = keeping.most_value
            shown = math.floor(best * 1e6) / 1e6  # rounded down, so that it is itself accepted
            raise InfeasibleBudgetError(
                f"budget.min_quality={budget.min_quality:g} cannot be kept; the best subnet"
                f"{'' if budget.bytes is None else ' within budget.bytes'} keeps {shown}",
                "min_quality",
                best,
            )
        if -found.gain > in_macs.most and tolerance > 0:
            return self.cheapest(request, budget, 0.0, terms)
        suffix = f" that keeps {budget.min_quality:g}"
        if -found.gain > in_macs.most:
            raise self.too_small(in_macs.field, request, budget, terms, -found.gain, suffix)
        # MACs are whole, so that less than one off is none.
        gap = math.floor(found.gap) / request.largest_macs
        chosen = Chosen(in_macs.view.grid, found._replace(gap=gap))
        if self.keeps(request, budget, terms, chosen, in_macs.field):
            return chosen
        cost = self.cost(request, chosen)
        for ceiling in others:
            least = solve(self._keeping(ceiling.view, request, budget, terms), _ONE)
            assert least is not None, "a quality can be kept or not, whatever is counted"
            if -least.gain > ceiling.most:
                raise self.too_small(ceiling.field, request, budget, terms, -least.gain, suffix)
            chosen = Chosen(ceiling.view.grid, least)
            cost = self.cost(request, chosen)
            if self.keeps(request, budget, terms, chosen, ceiling.field):
                gap = (cost.macs + found.gain) / request.largest_macs
                return chosen._replace(solution=least._replace(gap=gap))
        for field, held, most in (
            (in_macs.field, cost.macs, in_macs.most),
            (BYTES, cost.bytes, budget.bytes or math.inf),
        ):
            if held > most:
                raise self.too_small(field, request, budget, terms, held, suffix)
        assert terms.timing is not None
        run_us = self.microseconds(request, chosen, terms.timing)
        raise self.too_small(TIME, request, budget, terms, run_us, suffix)

    def _keeping(self, view: View, request: Request, budget: Budget, terms: Terms) -> Cheapest:
        """Return the objective of least cost with quality at least the floor."""
        assert budget.min_quality is not None
        allowed = self.allowed(view, request, budget, terms)
        options = view.options(request, terms.floors)
        return Cheapest(options, request.weights, budget.min_quality - ROUNDING, allowed)

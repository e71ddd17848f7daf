"""A model's rows priced in every resource, and what limits a choice of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np

from models.core import Cost
from search.budget import Budget, InfeasibleBudgetError, TooSlowError, too_small
from search.grid import Grid, Resident
from search.knapsack.objective import Best
from search.knapsack.solve import Solution, solve
from search.knapsack.view import View
from search.lengths import IntArray
from search.quality.table import BoolArray
from search.request import Request
from search.terms import Terms
from search.timed import TimedViews
from search.timing.timing import SHARED, Timing

MACS, TIME, BYTES = "macs", "latency_ms", "bytes"


class Ceiling(NamedTuple):
    """What limits a choice in one resource.

    Attributes:
        field: Of the budget.
        view: The rows priced in the resource.
        most: Of it.
    """

    field: str
    view: View
    most: float


class Chosen(NamedTuple):
    """A solution and the grid whose rows it counts."""

    grid: Grid
    solution: Solution


class Prices:
    """The rows of a model at some lengths, priced in MACs, in time and in bytes of weights.

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
        self.basis = basis = whole.lengths.basis(lengths)
        self.by_macs = View(lean, lean.macs(basis))
        self.whole = whole
        self.timed = TimedViews(whole, lengths)

    @cached_property
    def every_row(self) -> View:
        """Every row in MACs."""
        return View(self.whole, self.whole.macs(self.basis))

    @cached_property
    def surest(self) -> View:
        """The rows as the model is loaded, and those of other weights that none beats in MACs."""
        is_loaded = np.array([values == self.whole.loaded for values in self.whole.loads])
        is_lean = np.isin(self.whole.numbers, self.by_macs.grid.numbers)
        part = self.whole.part(np.flatnonzero(is_loaded[self.whole.load] | is_lean))
        return View(part, part.macs(self.basis))

    def has_any(self, resident: Resident) -> bool:
        """Return whether the weights of any row are built."""
        return bool(self.whole.allowed(resident).any())

    @cached_property
    def by_bytes(self) -> View:
        """Every row in bytes of weights."""
        return View(self.whole, self.whole.weights)

    def rows_by_macs(self, budget: Budget, terms: Terms) -> View:
        """Return the rows that can be the answer when MACs are limited."""
        is_loaded_there = terms.resident is None or self.whole.loaded in terms.resident
        if not is_loaded_there or budget.bytes is not None:
            return self.every_row
        # A row that another beats in what is expected may be the safer one.
        return self.by_macs if terms.floors is None else self.surest

    def allowed(
        self, view: View, request: Request, budget: Budget, terms: Terms
    ) -> BoolArray | None:
        """Return the rows of which the weights are built and may be held; None for all."""
        allowed = None if terms.resident is None else view.grid.allowed(terms.resident)
        if budget.bytes is None:
            return allowed
        is_held = self.by_bytes.options(request).lowest_cost <= budget.bytes
        return is_held if allowed is None else is_held & allowed

    def ceilings(self, request: Request, budget: Budget, terms: Terms) -> Iterator[Ceiling]:
        """Yield what limits the choice: MACs at any rate, then time and bytes."""
        macs, field = budget.max_macs(request.largest_macs)
        yield Ceiling(field or MACS, self.rows_by_macs(budget, terms), macs)
        if terms.timing is not None and not math.isinf(terms.max_seconds):
            yield Ceiling(TIME, self.timed.at(terms.timing).view, terms.max_microseconds)
        if budget.bytes is not None:
            yield Ceiling(BYTES, self.by_bytes, budget.bytes)

    def largest_macs(self, tasks: IntArray) -> int:
        """Return the MACs of the largest subnet for some tasks and the inputs that are there."""
        return self.whole.largest_macs(tasks, self.basis)

    def cost(self, request: Request, chosen: Chosen) -> Cost:
        """Return what a choice costs."""
        row, columns = chosen.solution.row, chosen.solution.columns
        return chosen.grid.cost(self.basis, row, columns, request.tasks)

    def quality(self, request: Request, chosen: Chosen) -> float:
        """Return the weighted retention."""
        retention = chosen.grid.retention[chosen.solution.row]
        return float(request.weights @ retention[chosen.solution.columns, request.tasks])

    def error(self, request: Request, chosen: Chosen) -> float:
        """Return the standard error of the quality, those of the tasks taken as independent."""
        errors = chosen.grid.error[chosen.solution.row][chosen.solution.columns, request.tasks]
        return float(np.sqrt((request.weights**2 * errors**2).sum()))

    def floor(self, request: Request, chosen: Chosen, terms: Terms) -> float | None:
        """Return the weighted floors; None where there are none."""
        if terms.floors is None:
            return None
        floors = terms.floors.of(chosen.grid, request.weights)[chosen.solution.row]
        return float(request.weights @ floors[chosen.solution.columns, request.tasks])

    def microseconds(self, request: Request, chosen: Chosen, timing: Timing) -> float:
        """Predict how long a choice runs."""
        row, columns = chosen.solution.row, chosen.solution.columns
        return chosen.grid.time(self.timed.at(timing).microseconds, row, columns, request.tasks)

    def shared_microseconds(self, request: Request, chosen: Chosen, timing: Timing) -> float:
        """Predict what a choice adds to a full batch."""
        return self.microseconds(request, chosen, timing.shared) / SHARED

    def keeps(
        self, request: Request, budget: Budget, terms: Terms, chosen: Chosen, but: str = ""
    ) -> bool:
        """Return whether a choice is under all ceilings, one left out."""
        cost = self.cost(request, chosen)
        ceiling, field = budget.max_macs(request.largest_macs)
        if (field or MACS) != but and cost.macs > ceiling:
            return False
        if but != BYTES and budget.bytes is not None and cost.bytes > budget.bytes:
            return False
        if but == TIME or terms.timing is None or math.isinf(terms.max_seconds):
            return True
        return self.microseconds(request, chosen, terms.timing) <= terms.max_microseconds

    def check_bytes(self, request: Request, budget: Budget, terms: Terms) -> None:
        """Refuse a ceiling in bytes that no row keeps of which the weights are built."""
        if budget.bytes is None:
            return
        lowest = self.by_bytes.options(request).lowest_cost
        if terms.resident is not None:
            lowest = lowest[self.whole.allowed(terms.resident)]
        if (least := float(lowest.min())) > budget.bytes:
            raise self.too_small(BYTES, request, budget, terms, least)

    def too_small(
        self,
        field: str,
        request: Request,
        budget: Budget,
        terms: Terms,
        least: float,
        suffix: str = "",
    ) -> InfeasibleBudgetError:
        """Return the error that says what would be enough of a ceiling, in its own resource."""
        if field != BYTES and budget.bytes is not None:
            suffix += " within budget.bytes"
        if field == TIME:
            cheapest = self.cheapest_s(request, budget, terms)
            fastest = terms.pace * least / 1e6
            return TooSlowError(latency_ms(budget, terms), fastest, suffix, cheapest)
        return too_small(field, budget, int(least), request.largest_macs, suffix)

    def cheapest_s(self, request: Request, budget: Budget, terms: Terms) -> float:
        """Predict how long the subnet of fewest MACs runs."""
        assert terms.timing is not None
        view = self.rows_by_macs(budget, terms)
        options = view.options(request)
        allowed = self.allowed(view, request, budget, terms)
        least = Best(options, request.weights, math.inf, 0.0, allowed).least_cost
        found = solve(Best(options, request.weights, least, 0.0, allowed))
        assert found is not None, "the cheapest is as cheap as itself"
        run_us = self.microseconds(request, Chosen(view.grid, found), terms.timing)
        return terms.pace * run_us / 1e6


def latency_ms(budget: Budget, terms: Terms) -> float:
    """Return the latency that a budget names, or what the terms leave for running."""
    return 1000 * terms.max_seconds if budget.latency_ms is None else budget.latency_ms

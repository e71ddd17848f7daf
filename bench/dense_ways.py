"""Ways to turn preferences and a budget into a subnet of a dense model, on its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from models.families.dense import Dense
from models.space import Subnet
from search.budget import Budget, InfeasibleBudgetError
from search.ecmt import find_by_rule
from search.find import Finder
from search.quality.table import Table

Weights = tuple[float, ...]  # of each task in the model's order
Way = Callable[[Weights, float], Subnet | None]
JOINT, RULE, GLOBAL = "joint exact search", "ECMT rule", "one global width"


class Configurations:
    """Every subnet with its cost and what it keeps of each task, for searches with parts fixed."""

    def __init__(self, model: Dense, table: Table) -> None:
        self.model, self.table = model, table
        self.tasks = list(model.tasks)
        shapes, cells = model.inputs.plan_shapes(), table.cells
        sizes = [len(cells[task].columns) for task in self.tasks]
        index = np.array(list(product(range(len(table.rows)), *map(range, sizes))))
        self.rows, self.columns = index[:, 0], index[:, 1:]
        macs = np.zeros(len(index))
        self.kept = np.zeros((len(index), len(self.tasks)))
        for t, task in enumerate(self.tasks):
            own = np.zeros((len(table.rows), sizes[t]))
            base = np.zeros(len(table.rows))
            for r, row in enumerate(table.rows):
                for c, column in enumerate(cells[task].columns):
                    plan = model.plan(row | column, shapes, [task])
                    own[r, c] = plan.answers[task].cost.macs
                    base[r] = plan.cost.macs - own[r, c]
            macs += own[self.rows, self.columns[:, t]] + (base[self.rows] if t == 0 else 0)
            self.kept[:, t] = table.retention(task)[self.rows, self.columns[:, t]]
        self.fraction = macs / macs.max()

    def subnet(self, i: int) -> Subnet:
        """Return one of the subnets."""
        found: Subnet = self.table.rows[self.rows[i]]
        for task, c in zip(self.tasks, self.columns[i], strict=True):
            found = found | self.table.cells[task].columns[c]
        return found

    def best(self, allowed: NDArray[np.bool_], weights: Weights, budget: float) -> int | None:
        """Return the best subnet that is allowed and fits."""
        fits = np.flatnonzero(allowed & (self.fraction <= budget + 1e-12))
        if not len(fits):
            return None
        return int(fits[(self.kept[fits] @ np.array(weights)).argmax()])

    def uniform_rows(self) -> dict[float, int]:
        """Return by width the row in which each stage has it."""
        return {
            float(next(iter(row.values()))): r
            for r, row in enumerate(self.table.rows)
            if len(set(row.values())) == 1
        }

    def fixed(self) -> dict[str, dict[float, NDArray[np.bool_]]]:
        """Return, by the part that is fixed and its width, which subnets that leaves."""
        decoders = [float(next(iter(c.values()))) for c in self.table.cells[self.tasks[0]].columns]
        rows = self.uniform_rows()
        of_decoders = {w: (self.columns == c).all(1) for c, w in enumerate(decoders)}
        return {
            "encoder": {w: self.rows == r for w, r in rows.items()},
            "decoders": of_decoders,
            "both": {w: of_decoders[w] & (self.rows == r) for w, r in rows.items()},
        }


def ways_of(
    configurations: Configurations,
    finder: Finder,
    grid: Sequence[Weights],
    budgets: Sequence[float],
    volume: Callable[[Sequence[Sequence[float]]], float],
) -> dict[str, Way]:
    """Return all ways.

    Args:
        configurations: Of the model.
        finder: Of the model.
        grid: Preferences that the best fixed widths are chosen for, on the table.
        budgets: At which.
        volume: Of what subnets keep, one row for each.
    """
    fixed, tasks = configurations.fixed(), configurations.tasks

    def searched(masks: Mapping[float, NDArray[np.bool_]], widths: Mapping[float, float]) -> Way:
        def find(weights: Weights, budget: float) -> Subnet | None:
            if budget not in widths:
                return None
            i = configurations.best(masks[widths[budget]], weights, budget)
            return None if i is None else configurations.subnet(i)

        return find

    def tuned(masks: Mapping[float, NDArray[np.bool_]]) -> dict[float, float]:
        """Return the best width for each budget, by volume and then by what is kept on the mean."""
        found = {}
        for budget in budgets:
            worth = {}
            for width, mask in masks.items():
                best = [configurations.best(mask, weights, budget) for weights in grid]
                chosen = [i for i in best if i is not None]
                if chosen:
                    kept = configurations.kept[chosen]
                    worth[width] = (volume(np.unique(kept, axis=0).tolist()), float(kept.mean()))
            if worth:
                found[budget] = max(worth, key=lambda width: worth[width])
        return found

    def asked(find: Callable[[Mapping[str, float], Budget], Subnet]) -> Way:
        @lru_cache(None)
        def remembered(weights: Weights, budget: float) -> Subnet | None:
            try:
                return find(dict(zip(tasks, weights, strict=True)), Budget(fraction=budget))
            except InfeasibleBudgetError:
                return None

        return remembered

    full = dict.fromkeys(budgets, 1.0)
    return {
        JOINT: asked(lambda w, b: finder.find(None, w, b, 0.0).subnet),
        RULE: asked(lambda w, b: find_by_rule(finder, None, w, b).subnet),
        "encoder full": searched(fixed["encoder"], full),
        "decoders full": searched(fixed["decoders"], full),
        "encoder of one width": searched(fixed["encoder"], tuned(fixed["encoder"])),
        "decoders of one width": searched(fixed["decoders"], tuned(fixed["decoders"])),
        GLOBAL: searched(fixed["both"], tuned(fixed["both"])),
    }


def simplex(parts: int, steps: int) -> list[Weights]:
    """Return all weights of so many tasks that are whole numbers of steps and sum to 1."""
    return [
        tuple(x / steps for x in one)
        for one in product(range(steps + 1), repeat=parts)
        if sum(one) == steps
    ]


def leaning(task: int, parts: int, weight: float) -> Weights:
    """Return weights with one task's given and the rest shared by the others."""
    return tuple(weight if i == task else (1 - weight) / (parts - 1) for i in range(parts))

"""What the search promises for a model of every family, against every subnet one by one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import pytest

from models.core import Shapes
from models.space import Subnet
from search.budget import Budget, InfeasibleBudgetError
from search.find import TOLERANCE, Finder
from search.finders import Finders
from search.quality.table import Cells, Table, given_axes
from tests.conformance.subject import Made

BUDGETS = 40


class Priced(NamedTuple):
    """A subnet, what its plan costs, and what it keeps of each task."""

    subnet: Subnet
    macs: int
    kept: tuple[float, ...]


def random_table(made: Made) -> Table:
    """Return a table in which wider is not always better."""
    rng = np.random.default_rng(0)
    rows = tuple(made.space.select({None}))
    cells = {}
    for name, task in made.model.tasks.items():
        columns = tuple(
            made.space.select({name})
            if made.space.select({None}) is not made.space
            else [Subnet({})]
        )
        shape = (len(rows), len(columns))
        cells[name] = Cells(
            columns=columns,
            value=rng.uniform(0.3, 0.9, shape),
            n=np.full(shape, 100),
            stderr=np.full(shape, 0.01),
            measured=np.ones(shape, dtype=np.bool_),
            lower_is_better=task.lower_is_better,
        )
    return Table(rows, cells, given_axes(made.space.axes))


def every_subnet(
    made: Made, table: Table, names: Sequence[str], shapes: Shapes, tasks: Sequence[str]
) -> list[Priced]:
    """Price every subnet by its own plan."""
    given = made.given(names)
    full = table.rows.index(table.rows[-1] | given)
    columns = [range(len(table.cells[task].columns)) for task in tasks]
    found = []
    for r, row in enumerate(table.rows):
        if any(row[axis] != value for axis, value in given.items()):
            continue
        for chosen in itertools.product(*columns):
            subnet = row
            kept = []
            for task, c in zip(tasks, chosen, strict=True):
                cells = table.cells[task]
                subnet = subnet | cells.columns[c]
                whole, own = cells.value[full, -1], cells.value[r, c]
                kept.append(float(whole / own if cells.lower_is_better else own / whole))
            plan = made.model.plan(subnet, shapes, tasks)
            found.append(Priced(subnet, plan.cost.macs, tuple(kept)))
    return found


def test_the_search_equals_brute_force_and_no_answer_exceeds_its_budget(made: Made) -> None:
    rng = Random(4)
    table = random_table(made)
    finders = Finders(made.model, table)
    for names in made.names():
        for tasks in {tuple(sorted(made.some_tasks(rng), key=made.tasks.index)) for _ in range(3)}:
            shapes = made.inputs.shapes(made.item(rng, names))
            every = every_subnet(made, table, names, shapes, tasks)
            check(rng, finders.at(shapes), tasks, every)


def check(rng: Random, finder: Finder, tasks: Sequence[str], every: Sequence[Priced]) -> None:
    macs = [one.macs for one in every]
    refused = answered = 0
    for _ in range(BUDGETS):
        weights = {task: rng.random() + 1e-3 for task in tasks}
        budget = Budget(
            macs=rng.uniform(0.9 * min(macs), max(macs)),
            min_quality=rng.choice([None, rng.uniform(0.7, 1.3)]),
        )
        assert budget.macs is not None
        qualities = [quality(one, weights) for one in every]
        feasible = [
            (worth, one.macs)
            for worth, one in zip(qualities, every, strict=True)
            if one.macs <= budget.macs and worth >= (budget.min_quality or 0.0) - 1e-9
        ]
        if not feasible:
            with pytest.raises(InfeasibleBudgetError):
                finder.find(tasks, weights, budget, tolerance=0)
            refused += 1
            continue
        exact = finder.find(tasks, weights, budget, tolerance=0)
        quick = finder.find(tasks, weights, budget)
        for found in (exact, quick):
            (planned,) = (one for one in every if one.subnet == found.subnet)
            assert found.cost.macs == planned.macs <= budget.macs
            assert found.quality == pytest.approx(quality(planned, weights), abs=1e-9)
            assert found.quality >= (budget.min_quality or 0.0) - 1e-8
        if budget.min_quality is None:
            best = max(worth for worth, _ in feasible)
            assert exact.quality == pytest.approx(best, abs=1e-9)
            assert best <= quick.quality + quick.gap + 1e-9
        else:
            assert exact.cost.macs == min(cost for _, cost in feasible)
        assert exact.gap == 0
        assert quick.gap <= TOLERANCE + 1e-9
        answered += 1
    assert answered > 0


def quality(one: Priced, weights: Mapping[str, float]) -> float:
    """Return the weighted mean of what is kept of the tasks."""
    total = sum(weights.values())
    return sum(w * kept for w, kept in zip(weights.values(), one.kept, strict=True)) / total

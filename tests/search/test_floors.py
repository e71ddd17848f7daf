from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search.budget import Budget, InfeasibleBudgetError
from search.find import Finder
from search.finders import Finders
from search.floors import Floors
from search.quality.table import Table
from search.terms import Terms
from tests.tiny import tiny_model, tiny_table


@pytest.fixture(scope="module")
def table() -> Table:
    """A table whose retentions are in doubt, but for the largest subnet's."""
    model = tiny_model()
    made = tiny_table(model)
    cells = {}
    for task, own in made.cells.items():
        error = np.full(own.value.shape, 0.02)
        error[-1, -1] = 0.0
        cells[task] = replace(own, error=error)
    return replace(made, cells=cells)


@pytest.fixture(scope="module")
def finder(table: Table) -> Finder:
    return Finders(tiny_model(), table).at()


def test_a_promise_that_must_be_surer_takes_no_less_compute(finder: Finder) -> None:
    fractions = []
    for errors in (0.0, 1.0, 2.0):
        terms = Terms(floors=Floors(errors) if errors else None)
        found = finder.find(budget=Budget(min_quality=0.95), tolerance=0, terms=terms)
        assert found.quality >= 0.95 - 1e-9
        assert (found.floor is None) == (not errors)
        if found.floor is not None:
            assert 0.95 - 1e-9 <= found.floor <= found.quality + 1e-9
        fractions.append(found.fraction)
    assert fractions == sorted(fractions)


def test_the_cheapest_that_keeps_the_floor_is_found(finder: Finder, table: Table) -> None:
    """Against every row and column of one task."""
    floors = Floors(1.5)
    task = finder.tasks[0]
    found = finder.find(
        [task], budget=Budget(min_quality=0.97), tolerance=0, terms=Terms(floors=floors)
    )
    cells = table.cells[task]
    floor = table.retention(task) - 1.5 * cells.known_error
    assert found.error == pytest.approx(float(cells.known_error[table.locate(task, found.subnet)]))
    best = min(
        finder.find([task], budget=Budget(macs=macs), tolerance=0).cost.macs
        for macs in [found.cost.macs]
    )
    assert best <= found.cost.macs
    with pytest.raises(InfeasibleBudgetError):
        finder.find(
            [task],
            budget=Budget(min_quality=float(floor.max()) + 0.001),
            terms=Terms(floors=floors),
        )


def test_the_largest_subnet_keeps_all_of_itself_however_sure_it_must_be(finder: Finder) -> None:
    found = finder.find(budget=Budget(min_quality=1.0), terms=Terms(floors=Floors(3.0)))
    assert found.floor is not None
    assert found.floor >= 1.0 - 1e-9


def test_errors_of_several_tasks_partly_cancel(finder: Finder) -> None:
    floors = Floors(1.0)
    one, many = (
        finder.find(tasks, budget=Budget(min_quality=0.5), terms=Terms(floors=floors))
        for tasks in (finder.tasks[:1], finder.tasks)
    )
    assert many.error < one.error or one.error == 0
    assert floors.factor(np.array([1.0])) == pytest.approx(1.0)
    assert floors.factor(np.full(20, 0.05)) == pytest.approx(0.25)  # rounded up


def test_what_audits_leave_lowers_floors_and_not_what_is_told(finder: Finder, table: Table) -> None:
    kept = {task: np.full(own.value.shape, 0.9) for task, own in table.cells.items()}
    for own in kept.values():
        own[-1, -1] = 1.0
    plain = finder.find(budget=Budget(min_quality=0.8))
    found = finder.find(budget=Budget(min_quality=0.8), terms=Terms(floors=Floors(0.0, kept)))
    assert found.floor is not None
    assert found.floor < found.quality
    assert found.fraction >= plain.fraction
    without = finder.find(budget=Budget(fraction=0.5), terms=Terms(floors=Floors(0.0, kept)))
    assert without == finder.find(budget=Budget(fraction=0.5))


def test_nothing_is_in_doubt_where_the_table_does_not_say(tmp_path: Path) -> None:
    model = tiny_model()
    finder = Finders(model, tiny_table(model)).at()
    one = finder.find(budget=Budget(min_quality=0.9))
    other = finder.find(budget=Budget(min_quality=0.9), terms=Terms(floors=Floors(2.0)))
    assert other.fraction == pytest.approx(one.fraction, abs=1e-3)

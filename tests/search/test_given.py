"""Items that lack an input: what may be chosen, and what it is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from models.inputs import InvalidInputError
from search.budget import Budget
from search.finders import Finders
from search.quality.table import Table
from tests.search.brute import BruteForce
from tests.search.toys import Necked, random_table

ONE = {"query": (9, 1)}
AXES = ("encoder", "neck", "inputs")
BOTH = {"query": (9, 1), "document": (20, 1)}


@pytest.fixture(scope="module")
def model() -> Necked:
    return Necked(with_given=True)


@pytest.fixture(scope="module")
def table(model: Necked) -> Table:
    return random_table(model)


@pytest.fixture(scope="module")
def finders(model: Necked, table: Table) -> Finders:
    return Finders(model, table)


@pytest.mark.parametrize("shapes", [ONE, BOTH], ids=["one", "both"])
def test_only_rows_for_the_inputs_that_are_there_are_chosen(
    model: Necked, finders: Finders, shapes: dict[str, tuple[int, ...]]
) -> None:
    finder = finders.at(shapes)
    for fraction in (0.3, 0.6, 1.0):
        found = finder.find(budget=Budget(fraction=fraction), tolerance=0)
        assert found.subnet["inputs"] == "+".join(shapes)
        assert found.cost == model.plan(found.subnet, shapes).cost
        assert found.fraction <= fraction


@pytest.mark.parametrize("shapes", [ONE, BOTH], ids=["one", "both"])
def test_fractions_and_retention_are_those_of_the_largest_subnet_for_these_inputs(
    model: Necked, table: Table, finders: Finders, shapes: dict[str, tuple[int, ...]]
) -> None:
    largest = model.space.largest | {"inputs": "+".join(shapes)}
    request = finders.at(shapes).request(None, None)
    assert request.largest_macs == model.plan(largest, shapes).cost.macs
    full = table.rows.index(model.space.select({None}).check({a: largest[a] for a in AXES}))
    found = finders.at(shapes).find(budget=Budget(fraction=0.5), tolerance=0)
    for task, score in found.scores.items():
        whole = table.cells[task].expected[full, -1]
        ratio = score.expected / whole
        expected = 1 / ratio if model.tasks[task].lower_is_better else ratio
        assert score.retention == pytest.approx(expected)
    mean = sum(score.retention for score in found.scores.values()) / 3
    assert found.quality == pytest.approx(mean)


@pytest.mark.parametrize("shapes", [ONE, BOTH], ids=["one", "both"])
def test_the_search_equals_brute_force_over_the_rows_for_these_inputs(
    finders: Finders, shapes: dict[str, tuple[int, ...]]
) -> None:
    finder = finders.at(shapes)
    request = finder.request(None, None)
    lengths = {name: shape[0] for name, shape in shapes.items()}
    grid = finders._grids[tuple(shapes)]
    assert {row["inputs"] for row in grid.rows} == {"+".join(shapes)}
    reference = BruteForce(grid, request, lengths=lengths)
    for fraction in np.linspace(0.4, 1, 9):
        budget = Budget(fraction=float(fraction))
        expected = reference.best(request.weights, budget)
        assert expected is not None
        found = finder.find(budget=budget, tolerance=0)
        assert found.quality == pytest.approx(expected[0], abs=1e-9)


def test_inputs_that_do_not_go_together_are_refused(finders: Finders) -> None:
    with pytest.raises(InvalidInputError, match="input 'query' is required"):
        finders.at({"document": (4, 1)})


def test_an_input_that_may_be_missing_needs_an_axis_that_says_so(
    model: Necked, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = Necked()
    monkeypatch.setattr(mute, "inputs", model.inputs)
    with pytest.raises(ValueError, match="input 'document' may be missing, and no given axis"):
        Finders(mute, random_table(mute))

"""Searches of which some rows need weights that are not built."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from models.space import Subnet
from search.budget import Budget, InfeasibleBudgetError
from search.find import Finder, NotResidentError, Selection
from search.finders import Finders
from search.grid import Resident
from search.quality.table import FloatArray
from search.terms import Terms
from search.timing.profile import Corrections
from search.timing.timing import SHARED, Timing
from tests.search.brute import BruteForce
from tests.search.toys import Necked, random_profile, random_table

SHAPES = {"query": (9, 1), "document": (20, 1)}
LENGTHS = {"query": 9, "document": 20}
SETS: list[Resident] = [
    frozenset({(32,)}),
    frozenset({(4,)}),
    frozenset({(4,), (32,)}),
    frozenset({(4,), (8,), (32,)}),
]


@pytest.fixture(scope="module")
def finders() -> Finders:
    model = Necked(with_load=True)
    return Finders(model, random_table(model))


@pytest.fixture(scope="module")
def finder(finders: Finders) -> Finder:
    return finders.at(SHAPES)


@pytest.fixture(scope="module")
def timing(finders: Finders) -> Timing:
    return Timing.of(random_profile(finders.functions), 1)


def reference_of(
    finders: Finders, finder: Finder, resident: Resident, timing: Timing
) -> BruteForce:
    (grid,) = finders._grids.values()
    rows = [r for r, row in enumerate(grid.rows) if (row["bits"],) in resident]
    return BruteForce(grid.part(np.array(rows)), finder.request(None, None), timing, LENGTHS)


@pytest.mark.parametrize("resident", SETS, ids=str)
def test_every_question_is_answered_from_what_is_built_as_by_brute_force(
    finders: Finders, finder: Finder, timing: Timing, resident: Resident
) -> None:
    rng = Random(0)
    built = reference_of(finders, finder, resident, timing)
    weights = finder.request(None, None).weights
    found_any = refused = 0
    for _ in range(120):
        seconds = 1.0001 * float(np.quantile(built.seconds, rng.uniform(0.0, 0.6)))
        limit = rng.choice([np.inf, seconds])
        budget = Budget(
            macs=rng.choice([None, float(np.quantile(built.macs, rng.random()))]),
            min_quality=rng.choice([None, rng.uniform(0.7, 1.0)]),
            latency_ms=None if np.isinf(limit) else 1000 * limit,
        )
        terms = Terms(0.0, timing, limit, resident=resident)
        expected = built.best(weights, budget, limit)
        try:
            found = finder.find(None, None, budget, 0.0, terms)
        except InfeasibleBudgetError:
            refused += 1
            # Where three limits bind, the cheapest tried may still be too slow.
            assert expected is None or (budget.macs and budget.latency_ms)
            continue
        assert expected is not None
        assert (found.subnet["bits"],) in resident
        assert found.seconds is not None
        assert found.seconds <= limit + 1e-9
        found_any += 1
        if budget.min_quality is None:
            assert found.quality <= expected[0] + 1e-9 <= found.quality + found.gap + 2e-9
        else:
            assert found.quality >= budget.min_quality - 1e-8
            assert expected[1] <= found.cost.macs
            least_macs = found.cost.macs - found.gap * built.largest_macs <= expected[1] + 1
            # Of all that keep the quality the fastest, unless it breaks a ceiling.
            assert is_fastest(found, built, weights, timing, budget.min_quality) or least_macs
    assert found_any > 40
    assert refused > 0


def is_fastest(
    found: Selection, built: BruteForce, weights: FloatArray, timing: Timing, floor: float
) -> bool:
    """Return whether nothing adds less to a full batch and keeps a quality."""
    assert found.shared_seconds is not None
    kept = built.retention @ weights >= floor - 1e-9
    least = float(built.seconds_in(timing.shared)[kept].min())
    return abs(SHARED * found.shared_seconds - least) <= 1e-6


@pytest.mark.parametrize("resident", SETS, ids=str)
def test_a_floor_on_quality_takes_the_fastest_where_weights_differ(
    finders: Finders, finder: Finder, timing: Timing, resident: Resident
) -> None:
    built = reference_of(finders, finder, resident, timing)
    weights = finder.request(None, None).weights
    best = float((built.retention @ weights).max())
    for floor in np.linspace(0.5, 1, 8) * best:
        terms = Terms(timing=timing, resident=resident)
        found = finder.find(budget=Budget(min_quality=floor), tolerance=0, terms=terms)
        assert found.quality >= floor - 1e-8
        assert is_fastest(found, built, weights, timing, floor)


def test_the_fastest_that_keeps_a_floor_stays_the_same_whatever_was_slow(
    finders: Finders, finder: Finder
) -> None:
    profile = random_profile(finders.functions)
    asked = Budget(min_quality=0.6)

    def chosen() -> Subnet:
        return finder.find(budget=asked, terms=Terms(timing=Timing.of(profile, 1))).subnet

    first = chosen()
    ratios = np.where(np.arange(len(profile.seconds)) % 2, 100.0, 0.01)
    for corrections in (ratios, 1 / ratios):
        each = np.repeat(corrections[:, None], profile.corrections.ratios.shape[1], axis=1)
        profile.adopt(Corrections(each, profile.corrections.version + 1), 1.0)
        assert chosen() == first


def test_what_all_could_do_and_nothing_that_is_built_says_which_weights_would(
    finder: Finder,
) -> None:
    floor = finder.find(tolerance=0).quality - 1e-6
    budget = Budget(min_quality=floor)
    with pytest.raises(NotResidentError, match="no resident variant fits, but bits=32") as caught:
        finder.find(budget=budget, terms=Terms(resident=frozenset({(4,)})))
    assert caught.value.load == {"bits": 32}
    assert caught.value.wanted == finder.find(budget=budget)
    assert caught.value.field == "min_quality"
    best_built = finder.find(tolerance=0, terms=Terms(resident=frozenset({(4,)}))).quality
    assert caught.value.feasible == pytest.approx(best_built)


def test_what_nothing_could_do_is_refused_as_without_load_axes(finder: Finder) -> None:
    for budget in (Budget(macs=1), Budget(min_quality=9)):
        with pytest.raises(InfeasibleBudgetError) as plain:
            finder.find(budget=budget)
        with pytest.raises(InfeasibleBudgetError) as caught:
            finder.find(budget=budget, terms=Terms(resident=frozenset({(4,)})))
        assert not isinstance(caught.value, NotResidentError)
        assert str(caught.value) == str(plain.value)


def test_where_nothing_at_all_is_built_the_weights_of_the_best_are_named(finder: Finder) -> None:
    with pytest.raises(NotResidentError, match="nothing is built") as caught:
        finder.find(terms=Terms(resident=frozenset()))
    assert caught.value.field == "resident"
    assert caught.value.wanted == finder.find()


def test_a_row_is_kept_beside_one_that_beats_it_with_other_weights(finders: Finders) -> None:
    (grid,) = finders._grids.values()
    model = Necked(with_load=True)
    assert {row["bits"] for row in grid.without_dominated().rows} == {4, 8, 32}
    cheapest = finders.at(SHAPES).find(budget=Budget(min_quality=0.5), tolerance=0)
    assert cheapest.cost == model.plan(cheapest.subnet, SHAPES).cost

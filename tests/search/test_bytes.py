"""Ceilings on the bytes of weights, beside those on MACs and on time."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from search.budget import Budget, InfeasibleBudgetError
from search.find import Finder, NotResidentError
from search.finders import Finders
from search.grid import Resident
from search.terms import Terms
from search.timing.timing import Timing
from tests.search.brute import BruteForce
from tests.search.toys import Necked, random_profile, random_table

SHAPES = {"query": (9, 1), "document": (20, 1)}
LENGTHS = {"query": 9, "document": 20}
SETS: list[Resident | None] = [None, frozenset({(32,)}), frozenset({(4,), (32,)})]


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


def reference(
    finders: Finders, finder: Finder, timing: Timing, resident: Resident | None
) -> BruteForce:
    (grid,) = finders._grids.values()
    rows = [r for r, row in enumerate(grid.rows) if resident is None or (row["bits"],) in resident]
    return BruteForce(grid.part(np.array(rows)), finder.request(None, None), timing, LENGTHS)


@pytest.mark.parametrize("resident", SETS, ids=str)
def test_every_ceiling_holds_and_what_is_missing_to_brute_force_is_in_the_gap(
    finders: Finders, finder: Finder, timing: Timing, resident: Resident | None
) -> None:
    rng = Random(0)
    built = reference(finders, finder, timing, resident)
    weights = finder.request(None, None).weights
    found_any = refused = exact = 0
    for _ in range(200):
        seconds = 1.0001 * float(np.quantile(built.seconds, rng.uniform(0.0, 0.7)))
        limit = rng.choice([np.inf, np.inf, seconds])
        budget = Budget(
            macs=rng.choice([None, float(np.quantile(built.macs, rng.random()))]),
            bytes=0.999 * float(np.quantile(built.bytes, rng.random())),
            min_quality=rng.choice([None, rng.uniform(0.7, 1.0)]),
            latency_ms=None if np.isinf(limit) else 1000 * limit,
        )
        terms = Terms(0.0, timing, limit, resident=resident)
        expected = built.best(weights, budget, limit)
        is_alone = not (budget.macs or budget.latency_ms or budget.min_quality)
        try:
            found = finder.find(None, None, budget, 0.0, terms)
        except InfeasibleBudgetError:
            refused += 1
            # Where several limits bind, what is tried may still break one.
            assert expected is None or not is_alone
            continue
        assert expected is not None
        assert budget.bytes is not None
        assert found.cost.bytes <= budget.bytes
        assert found.cost.macs <= budget.max_macs(built.largest_macs)[0]
        assert found.seconds is not None
        assert found.seconds <= limit + 1e-9
        found_any += 1
        if budget.min_quality is None:
            assert found.quality <= expected[0] + 1e-9 <= found.quality + found.gap + 2e-9
            exact += found.gap == 0
        else:
            assert found.quality >= budget.min_quality - 1e-8
    assert found_any > 60
    assert exact > 10
    assert refused > 0


def test_a_ceiling_below_the_smallest_names_a_figure_that_is_then_accepted(
    finder: Finder,
) -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"budget\.bytes=1 is too small; the") as error:
        finder.find(budget=Budget(bytes=1))
    assert error.value.field == "bytes"
    found = finder.find(budget=Budget(bytes=error.value.feasible))
    assert found.cost.bytes == error.value.feasible


def test_fewer_bits_are_fewer_bytes_and_are_taken_for_them(finder: Finder) -> None:
    whole = finder.find()
    assert whole.subnet["bits"] == 32
    found = finder.find(budget=Budget(bytes=0.5 * whole.cost.bytes))
    assert found.subnet["bits"] != 32
    assert found.cost.bytes <= 0.5 * whole.cost.bytes


def test_weights_that_are_not_built_are_asked_for_where_others_hold_too_much(
    finder: Finder,
) -> None:
    least = finder.find(budget=Budget(bytes=_least(finder)))
    terms = Terms(resident=frozenset({(32,)}))
    with pytest.raises(NotResidentError, match=r"budget\.bytes") as error:
        finder.find(budget=Budget(bytes=least.cost.bytes), terms=terms)
    assert error.value.load == {"bits": least.subnet["bits"]}


def _least(finder: Finder) -> float:
    with pytest.raises(InfeasibleBudgetError) as error:
        finder.find(budget=Budget(bytes=1))
    return error.value.feasible


def test_other_ceilings_name_what_they_need_within_the_bytes(
    finder: Finder, timing: Timing
) -> None:
    most = 1.2 * _least(finder)
    with pytest.raises(InfeasibleBudgetError, match=r"subnet within budget\.bytes needs") as error:
        finder.find(budget=Budget(macs=1, bytes=most))
    macs = error.value.feasible
    assert finder.find(budget=Budget(macs=macs, bytes=most)).cost.macs == macs
    with pytest.raises(InfeasibleBudgetError, match=r"within budget\.bytes keeps") as error:
        finder.find(budget=Budget(min_quality=1.2, bytes=most))
    assert error.value.field == "min_quality"
    tight = Terms(0.0, timing, 1e-9)
    with pytest.raises(InfeasibleBudgetError, match=r"within budget\.bytes is predicted"):
        finder.find(budget=Budget(latency_ms=1e-6, bytes=most), terms=tight)


def test_bytes_that_no_subnet_of_so_few_macs_keeps_are_told_with_what_would_do() -> None:
    model = Necked(are_narrow_heads_large=True)
    finder = Finders(model, random_table(model)).at(SHAPES)
    with pytest.raises(InfeasibleBudgetError) as error:
        finder.find(budget=Budget(macs=1))
    macs, most = error.value.feasible, _least(finder)
    with pytest.raises(InfeasibleBudgetError, match=r"within budget\.macs") as error:
        finder.find(budget=Budget(macs=macs, bytes=most))
    assert error.value.field == "bytes"
    enough = error.value.feasible
    assert enough > most
    assert finder.find(budget=Budget(macs=macs, bytes=enough)).cost.bytes <= enough

"""Searches with a price on compute, and with time as a limit, against every subnet one by one."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from models.families.slimmable import Slimmable
from search.budget import Budget, InfeasibleBudgetError
from search.build import build_grid
from search.find import TOLERANCE, Finder
from search.finders import Finders
from search.terms import Terms
from search.timing.profile import LatencyProfile
from search.timing.timing import SHARED, Timing
from tests.search.brute import BruteForce
from tests.tiny import tiny_model, tiny_table


@pytest.fixture(scope="module")
def model() -> Slimmable:
    return tiny_model()


@pytest.fixture(scope="module")
def finder(model: Slimmable) -> Finder:
    return Finders(model, tiny_table(model)).at()


@pytest.fixture(scope="module")
def timing(model: Slimmable) -> Timing:
    """Times that do not follow MACs: a row that another beats in MACs may be the fastest."""
    grid = build_grid(model, tiny_table(model))
    rng = np.random.default_rng(3)
    seconds = rng.uniform(0.2e-3, 2e-3, (len(grid.functions), 1, 1))
    curves = {function: i for i, function in enumerate(grid.functions)}
    return Timing.of(LatencyProfile(curves, (1,), (0,), seconds), 1)


@pytest.fixture(scope="module")
def reference(model: Slimmable, finder: Finder, timing: Timing) -> BruteForce:
    """Over every row of the table, not only those that the search keeps."""
    grid = build_grid(model, tiny_table(model))
    return BruteForce(grid, finder.request(None, None), timing)


def weights_of(rng: Random, finder: Finder) -> dict[str, float]:
    return {task: rng.random() ** rng.choice([0, 1, 4]) for task in finder.tasks}


def test_a_price_leads_to_the_most_quality_less_the_price_of_the_compute(
    finder: Finder, reference: BruteForce
) -> None:
    rng = Random(1)
    low = float(reference.macs.min())
    for _ in range(200):
        weights = weights_of(rng, finder)
        price = 10 ** rng.uniform(-3, 1)
        budget = Budget(macs=rng.uniform(low, 1.1 * reference.largest_macs))
        found = finder.find(None, weights, budget, tolerance=0, terms=Terms(price))
        normed = finder.request(None, weights).weights
        expected = reference.best_at_price(normed, budget, price)
        assert found.quality - price * found.fraction == pytest.approx(expected, abs=1e-9)
        quick = finder.find(None, weights, budget, terms=Terms(price))
        assert quick.quality - price * quick.fraction >= expected - TOLERANCE - 1e-9


def test_with_a_timing_a_price_is_paid_for_time_in_a_full_batch(
    finder: Finder, reference: BruteForce, timing: Timing
) -> None:
    seconds = reference.seconds_in(timing.shared) / SHARED
    rng = Random(2)
    for _ in range(20):
        weights = weights_of(rng, finder)
        quality = reference.retention @ finder.request(None, weights).weights
        taken = []
        for price in np.geomspace(1e-6, 1e6, 30).tolist():
            found = finder.find(None, weights, tolerance=0, terms=Terms(price, timing))
            assert found.shared_seconds is not None
            taken.append(found.shared_seconds)
            is_faster = seconds < found.shared_seconds * (1 - 1e-9)
            assert (quality[is_faster] < found.quality + 1e-9).all()
            assert (seconds[quality > found.quality + 1e-9] > found.shared_seconds).all()
        assert taken == sorted(taken, reverse=True)
        assert taken[-1] == pytest.approx(float(seconds.min()))
        assert len(set(taken)) > 2


def test_a_price_of_time_takes_nothing_from_the_ceilings(
    finder: Finder, reference: BruteForce, timing: Timing
) -> None:
    rng = Random(3)
    low, high = float(reference.macs.min()), float(reference.seconds.max())
    for _ in range(200):
        weights = weights_of(rng, finder)
        budget = Budget(macs=rng.uniform(low, reference.largest_macs))
        max_seconds = rng.uniform(0.5, 1.0) * high
        terms = Terms(10 ** rng.uniform(-3, 1), timing, max_seconds)
        found = finder.find(None, weights, budget, terms=terms)
        assert budget.macs is not None
        assert found.cost.macs <= budget.macs
        assert found.seconds is not None
        assert found.seconds <= max_seconds


def test_a_higher_price_never_buys_more_compute(finder: Finder) -> None:
    prices = [0.0, *np.geomspace(1e-3, 1e3, 40).tolist()]
    macs = [finder.find(tolerance=0, terms=Terms(price)).cost.macs for price in prices]
    assert macs == sorted(macs, reverse=True)
    assert macs[-1] == finder.front()[0].cost.macs < macs[0]


def test_a_price_takes_nothing_from_a_floor(finder: Finder) -> None:
    budget = Budget(min_quality=0.9)
    assert finder.find(budget=budget, terms=Terms(100.0)) == finder.find(budget=budget)


def test_the_best_subnet_that_is_fast_enough_is_found(
    finder: Finder, reference: BruteForce, timing: Timing
) -> None:
    rng = Random(2)
    low, high = float(reference.seconds.min()), float(reference.seconds.max())
    refused = 0
    for _ in range(200):
        weights = weights_of(rng, finder)
        limit = rng.uniform(0.9 * low, high)
        budget = Budget(latency_ms=1000 * limit)
        expected = reference.best(finder.request(None, weights).weights, budget, limit)
        terms = Terms(0.0, timing, limit)
        if expected is None:
            with pytest.raises(InfeasibleBudgetError) as caught:
                finder.find(None, weights, budget, tolerance=0, terms=terms)
            assert caught.value.field == "latency_ms"
            assert caught.value.feasible == pytest.approx(1000 * low, abs=0.1)
            refused += 1
            continue
        found = finder.find(None, weights, budget, tolerance=0, terms=terms)
        assert found.seconds is not None
        assert found.seconds <= limit + 1e-9
        assert found.quality == pytest.approx(expected[0], abs=1e-9)
    assert 0 < refused < 100


def test_under_ceilings_in_macs_and_time_the_gap_bounds_what_is_missed(
    finder: Finder, reference: BruteForce, timing: Timing
) -> None:
    rng = Random(3)
    both = missed = 0
    for _ in range(300):
        weights = weights_of(rng, finder)
        limit = float(np.quantile(reference.seconds, rng.uniform(0.05, 0.6)))
        budget = Budget(
            macs=float(np.quantile(reference.macs, rng.uniform(0.05, 0.6))), latency_ms=1000 * limit
        )
        expected = reference.best(finder.request(None, weights).weights, budget, limit)
        try:
            found = finder.find(None, weights, budget, 0.0, Terms(0.0, timing, limit))
        except InfeasibleBudgetError:
            missed += expected is not None
            continue
        assert expected is not None
        assert found.cost.macs <= (budget.macs or 0)
        assert found.seconds is not None
        assert found.seconds <= limit + 1e-9
        assert found.quality <= expected[0] + 1e-9 <= found.quality + found.gap + 2e-9
        both += 1
    assert both > 100
    assert missed < 0.05 * both  # where both bind hard, the cheapest tried may still be too slow


def test_a_floor_is_kept_as_fast_as_the_latency_asks(
    finder: Finder, reference: BruteForce, timing: Timing
) -> None:
    keeps = reference.retention @ finder.request(None, None).weights >= 0.95
    limit = float(reference.seconds[keeps].min()) * 1.02
    budget = Budget(min_quality=0.95, latency_ms=1000 * limit)
    found = finder.find(budget=budget, terms=Terms(0.0, timing, limit))
    assert found.quality >= 0.95 - 1e-9
    assert found.seconds is not None
    assert found.seconds <= limit + 1e-9
    with pytest.raises(InfeasibleBudgetError, match=r"that keeps 0\.95 is predicted to need"):
        finder.find(budget=budget, terms=Terms(0.0, timing, limit / 1.05))


def test_a_latency_without_a_timing_is_a_mistake_of_the_caller(finder: Finder) -> None:
    with pytest.raises(ValueError, match="terms with a timing"):
        finder.find(budget=Budget(latency_ms=5))


def test_without_a_limit_in_time_an_answer_stays_while_its_predicted_time_changes(
    finder: Finder, timing: Timing
) -> None:
    before = finder.find(terms=Terms(timing=timing))
    slower = finder.find(terms=Terms(timing=timing, pace=2.0))
    later = Timing(timing.profile, timing.rows, timing.version + 1)
    after = finder.find(terms=Terms(timing=later))
    assert before.seconds is not None
    assert slower.seconds == pytest.approx(2 * before.seconds)
    assert after.seconds == pytest.approx(before.seconds)
    # One search made all three: what is not a time is the same object.
    assert before.scores is slower.scores is after.scores
    assert finder.find().seconds is None

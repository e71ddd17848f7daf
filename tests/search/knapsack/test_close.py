from __future__ import annotations

import itertools

import numpy as np
import pytest

from search.knapsack import close as module
from search.knapsack.close import Knapsack, close


def optimum(knapsack: Knapsack) -> float:
    """Return the most gain of any choice that keeps the capacity, by trying all; -inf if none."""
    columns, tasks = knapsack.gain.shape
    choices = np.array(list(itertools.product(range(columns), repeat=tasks)))
    each = np.arange(tasks)
    gain = knapsack.base_gain + knapsack.gain[choices, each].sum(axis=1)
    load = knapsack.base_load + knapsack.load[choices, each].sum(axis=1)
    return float(gain[load <= knapsack.capacity].max(initial=-np.inf))


def random_knapsack(rng: np.random.Generator, columns: int, tasks: int) -> Knapsack:
    load = rng.uniform(1, 10, (columns, tasks))
    gain = np.sqrt(load) * rng.uniform(0.7, 1.3, load.shape)
    lightest, heaviest = load.min(axis=0).sum(), load.max(axis=0).sum()
    capacity = float(rng.uniform(lightest, heaviest))
    return Knapsack(gain, load, 0.5, 1.0, capacity + 1.0, float(rng.uniform(0.05, 0.4)))


def check(knapsack: Knapsack, best: float, tolerance: float) -> bool:
    """Check what is found against all choices; return whether it is proven optimal."""
    truth = optimum(knapsack)
    found = close(knapsack, best, tolerance)
    assert found.bound >= truth - 1e-9 or found.columns is None
    assert found.bound >= min(truth, best) - 1e-9
    if found.columns is None:
        assert found.gain == best
        assert truth <= max(best + tolerance, found.bound) + 1e-9
    else:
        each = np.arange(len(found.columns))
        load = knapsack.base_load + knapsack.load[found.columns, each].sum()
        assert load <= knapsack.capacity + 1e-9
        gain = knapsack.base_gain + knapsack.gain[found.columns, each].sum()
        assert gain == pytest.approx(found.gain)
        assert best < found.gain <= truth + 1e-9
    return found.bound <= max(found.gain, best + tolerance) + 1e-9


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_what_it_finds_is_the_best_of_all_choices(tolerance: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        knapsack = random_knapsack(rng, int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        truth = optimum(knapsack)
        best = float(rng.choice([0.0, truth - 0.3, truth - 0.01, truth, truth + 0.1]))
        assert check(knapsack, best, tolerance)
        if best < truth - tolerance - 1e-9:
            found = close(knapsack, best, tolerance)
            assert found.gain == pytest.approx(truth, abs=tolerance + 1e-9)


def test_a_row_whose_own_bound_is_no_better_is_not_enumerated() -> None:
    gain = np.array([[1.0, 1.0], [2.0, 2.0]])
    knapsack = Knapsack(gain, np.array([[1.0, 1.0], [2.0, 2.0]]), 0.0, 0.0, 3.0, 1.0)
    found = close(knapsack, 3.0, 0.0)
    assert found == (None, 3.0, 3.0)


def test_without_a_limit_each_task_takes_its_best() -> None:
    gain = np.array([[1.0, 5.0], [2.0, 4.0]])
    found = close(Knapsack(gain, np.ones((2, 2)), 0.0, 0.0, np.inf, 0.0), 0.0, 0.0)
    assert found.columns is not None
    assert found.columns.tolist() == [1, 0]
    assert found.gain == found.bound == 7.0


def test_a_row_in_which_nothing_is_light_enough_gains_nothing() -> None:
    """With more options than are listed, so that states are dropped as they come."""
    rng = np.random.default_rng(1)
    load = rng.uniform(5, 6, (20, 4))
    knapsack = Knapsack(load.copy(), load, 0.0, 0.0, 19.0, 0.1)
    assert optimum(knapsack) == -np.inf
    found = close(knapsack, 0.0, 0.0)
    assert found.columns is None
    assert found.gain == 0.0


@pytest.mark.parametrize("most", [1, 4, 32])
def test_with_too_many_states_the_bound_covers_what_was_left_out(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_STATES", most)
    monkeypatch.setattr(module, "_MAX_LISTED", 4)
    rng = np.random.default_rng(2)
    proven = [check(random_knapsack(rng, 5, 5), 0.0, 0.0) for _ in range(100)]
    assert not all(proven)

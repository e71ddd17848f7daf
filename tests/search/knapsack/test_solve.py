from __future__ import annotations

import itertools

import numpy as np
import pytest

from search.grid import Priced
from search.knapsack.asked import Asked, hulls
from search.knapsack.question import Best, Cheapest
from search.knapsack.solve import Answer, solve
from search.quality.table import FloatArray


def asked_of(trunk: FloatArray, branch: FloatArray, value: FloatArray) -> Asked:
    tasks = np.arange(branch.shape[-1])
    return Asked.of(Priced(trunk, branch), value, tasks, hulls(branch, value))


def all_choices(asked: Asked, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return cost and value of every row and choice, shape [rows, choices]."""
    _, columns, tasks = asked.cost.shape
    choices = np.array(list(itertools.product(range(columns), repeat=tasks)))
    each = np.arange(tasks)
    cost = asked.trunk[:, None] + asked.cost[:, choices, each].sum(axis=-1)
    return cost, asked.value[:, choices, each] @ weights


def of_answer(asked: Asked, weights: FloatArray, answer: Answer) -> tuple[float, float]:
    cost = asked.trunk[answer.row] + asked.cost[answer.row, answer.columns, asked.each].sum()
    return float(cost), float(asked.value[answer.row, answer.columns, asked.each] @ weights)


def random_asked(rng: np.random.Generator) -> Asked:
    rows, columns, tasks = map(int, rng.integers(1, 6, 3))
    trunk = rng.uniform(1, 20, rows)
    branch = np.sort(rng.uniform(1, 10, (rows, columns, tasks)), axis=1)
    value = np.sqrt(trunk[:, None, None] * branch) * rng.uniform(0.8, 1.2, branch.shape)
    if rng.random() < 0.3:
        value[rng.integers(rows)] = value.mean()  # a row on which cost buys nothing
    return asked_of(trunk, branch, value)


@pytest.mark.parametrize("price", [0.0, 0.1])
def test_the_best_under_a_ceiling_is_the_best_of_all_choices(price: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        asked = random_asked(rng)
        weights = rng.dirichlet(np.ones(len(asked.each)))
        cost, value = all_choices(asked, weights)
        limit = float(rng.uniform(0.9 * cost.min(), 1.1 * cost.max()))
        answer = solve(Best(asked, weights, limit, price))
        worth = np.where(cost <= limit, value - price * cost, -np.inf)
        if answer is None:
            assert worth.max() == -np.inf
            continue
        own_cost, own_value = of_answer(asked, weights, answer)
        assert own_cost <= limit
        assert own_value - price * own_cost == pytest.approx(answer.gain)
        assert answer.gain == pytest.approx(worth.max(), abs=1e-8)
        assert answer.gap == 0


def test_the_cheapest_above_a_floor_is_the_cheapest_of_all_choices() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        asked = random_asked(rng)
        weights = rng.dirichlet(np.ones(len(asked.each)))
        cost, value = all_choices(asked, weights)
        limit = float(rng.uniform(0.9 * value.min(), 1.1 * value.max()))
        answer = solve(Cheapest(asked, weights, limit))
        if answer is None:
            assert value.max() < limit
            continue
        own_cost, own_value = of_answer(asked, weights, answer)
        assert own_value >= limit - 1e-9
        assert own_cost == pytest.approx(-answer.gain)
        assert own_cost == pytest.approx(cost[value >= limit - 1e-9].min(), abs=1e-6)


def test_where_the_likely_row_has_nothing_to_gain_the_others_are_walked_all_the_same() -> None:
    """It gives no slope to bound them by, however many they are."""
    trunk, rows = np.ones(6), 6
    branch = np.tile(np.array([0.0, 1.5, 99.0])[:, None], (rows, 1, 1))
    value = np.tile(np.array([0.0, 0.2, 1.0])[:, None], (rows, 1, 1))
    value[0] = 0.5  # a row on which cost buys nothing
    value[4, 1] = 0.6
    asked = asked_of(trunk, branch, value)
    question = Best(asked, np.ones(1), limit=3.0)
    first = question.walk(question.likely())
    assert first.row == 0
    assert question.slope(first) == 0
    answer = solve(question)
    assert answer is not None
    assert (answer.row, answer.columns.tolist(), answer.gain) == (4, [1], 0.6)

from __future__ import annotations

import itertools

import numpy as np
import pytest

from search.grid import Priced
from search.knapsack.objective import Best, Cheapest
from search.knapsack.options import TaskOptions, hulls
from search.knapsack.solve import Solution, solve
from search.quality.table import FloatArray


def options_of(base: FloatArray, own: FloatArray, value: FloatArray) -> TaskOptions:
    tasks, sharing = np.arange(own.shape[-1]), np.ones(1, dtype=np.bool_)
    return TaskOptions.of(Priced(base[:, None], own), sharing, value, tasks, hulls(own, value))


def all_choices(options: TaskOptions, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return cost and value of every row and choice, shape [rows, choices]."""
    _, columns, tasks = options.cost.shape
    choices = np.array(list(itertools.product(range(columns), repeat=tasks)))
    each = np.arange(tasks)
    cost = options.base[:, None] + options.cost[:, choices, each].sum(axis=-1)
    return cost, options.value[:, choices, each] @ weights


def of_solution(
    options: TaskOptions, weights: FloatArray, solution: Solution
) -> tuple[float, float]:
    cost = (
        options.base[solution.row]
        + options.cost[solution.row, solution.columns, options.each].sum()
    )
    return float(cost), float(options.value[solution.row, solution.columns, options.each] @ weights)


def random_options(rng: np.random.Generator) -> TaskOptions:
    rows, columns, tasks = map(int, rng.integers(1, 6, 3))
    base = rng.uniform(1, 20, rows)
    own = np.sort(rng.uniform(1, 10, (rows, columns, tasks)), axis=1)
    value = np.sqrt(base[:, None, None] * own) * rng.uniform(0.8, 1.2, own.shape)
    if rng.random() < 0.3:
        value[rng.integers(rows)] = value.mean()  # a row on which cost buys nothing
    return options_of(base, own, value)


@pytest.mark.parametrize("price", [0.0, 0.1])
def test_the_best_under_a_ceiling_is_the_best_of_all_choices(price: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        options = random_options(rng)
        weights = rng.dirichlet(np.ones(len(options.each)))
        cost, value = all_choices(options, weights)
        limit = float(rng.uniform(0.9 * cost.min(), 1.1 * cost.max()))
        solution = solve(Best(options, weights, limit, price))
        worth = np.where(cost <= limit, value - price * cost, -np.inf)
        if solution is None:
            assert worth.max() == -np.inf
            continue
        own_cost, own_value = of_solution(options, weights, solution)
        assert own_cost <= limit
        assert own_value - price * own_cost == pytest.approx(solution.gain)
        assert solution.gain == pytest.approx(worth.max(), abs=1e-8)
        assert solution.gap == 0


def test_the_cheapest_above_a_floor_is_the_cheapest_of_all_choices() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        options = random_options(rng)
        weights = rng.dirichlet(np.ones(len(options.each)))
        cost, value = all_choices(options, weights)
        limit = float(rng.uniform(0.9 * value.min(), 1.1 * value.max()))
        solution = solve(Cheapest(options, weights, limit))
        if solution is None:
            assert value.max() < limit
            continue
        own_cost, own_value = of_solution(options, weights, solution)
        assert own_value >= limit - 1e-9
        assert own_cost == pytest.approx(-solution.gain)
        assert own_cost == pytest.approx(cost[value >= limit - 1e-9].min(), abs=1e-6)


def test_where_the_likely_row_has_nothing_to_gain_the_others_are_solved_all_the_same() -> None:
    """It gives no slope to bound them by, however many they are."""
    base, rows = np.ones(6), 6
    own = np.tile(np.array([0.0, 1.5, 99.0])[:, None], (rows, 1, 1))
    value = np.tile(np.array([0.0, 0.2, 1.0])[:, None], (rows, 1, 1))
    value[0] = 0.5  # a row on which cost buys nothing
    value[4, 1] = 0.6
    options = options_of(base, own, value)
    objective = Best(options, np.ones(1), limit=3.0)
    first = objective.greedy(objective.likely())
    assert first.row == 0
    assert objective.slope(first) == 0
    solution = solve(objective)
    assert solution is not None
    assert (solution.row, solution.columns.tolist(), solution.gain) == (4, [1], 0.6)

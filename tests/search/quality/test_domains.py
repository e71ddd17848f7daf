"""Errors of retentions that hold for data sets of other kinds."""

from __future__ import annotations

import numpy as np
import pytest

from models.space import Subnet
from search.quality.cells import FloatArray
from search.quality.domains import mean_over, with_other_sets
from search.quality.embeddings import Measured
from search.quality.table import Cells, Table

LOST = np.array([0.3, 0.2, 0.1, 0.05, 0.0])


def table_of(kept: FloatArray, error: float) -> Table:
    """Return the table of a task whose whole scores 0.8."""
    value = 0.8 * kept[:, None]
    errors = np.full(value.shape, error)
    errors[-1] = 0
    measured = np.ones(value.shape, dtype=np.bool_)
    cells = Cells((Subnet({}),), value, np.full(value.shape, 9), errors, measured, error=errors)
    return Table(tuple(Subnet({"width": i}) for i in range(len(kept))), {"task": cells})


@pytest.mark.parametrize("sets", [2, 5])
def test_a_new_set_lies_within_the_errors_as_often_as_it_should(sets: int) -> None:
    rng, spread, noise, inside = np.random.default_rng(0), 0.25, 0.01, []
    for _ in range(400):
        harder = 1 + spread * rng.standard_normal(sets + 1)  # of the loss, by data set
        kept = 1 - harder[:, None] * LOST
        seen = kept[:sets] + noise * rng.standard_normal((sets, len(LOST))) * (LOST > 0)
        table = table_of(seen.mean(axis=0), noise / np.sqrt(sets))
        found = with_other_sets(table, {"task": 0.8 * seen}).cells["task"].known_error[:, 0]
        off = np.abs(kept[sets] - seen.mean(axis=0))[:-1] / found[:-1]
        inside.append((off < 1.28).mean())
    # By a normal distribution .80; of two sets the spread is little known.
    assert (0.6 if sets == 2 else 0.72) < np.mean(inside) < 0.88


def test_without_a_spread_or_a_second_set_errors_are_those_of_sampling() -> None:
    kept = 1 - LOST
    table = table_of(kept, 0.02)
    for sets in (1, 3):
        same = with_other_sets(table, {"task": np.tile(0.8 * kept, (sets, 1))})
        assert same.cells["task"].known_error == pytest.approx(table.cells["task"].known_error)


def test_a_task_of_one_set_has_the_spread_that_other_tasks_show() -> None:
    kept = 1 - LOST
    one, two = table_of(kept, 0.0), np.stack([1 - 0.5 * LOST, 1 - 1.5 * LOST])
    table = Table(one.rows, {"few": one.cells["task"], "many": one.cells["task"]})
    found = with_other_sets(table, {"few": 0.8 * kept[None], "many": 0.8 * two}).cells
    spread = np.sqrt(0.5)  # of 0.5 and 1.5
    assert found["few"].known_error[:, 0] == pytest.approx(spread * np.sqrt(2) * LOST)
    assert found["many"].known_error[:, 0] == pytest.approx(spread * np.sqrt(1.5) * LOST)


def test_the_mean_over_sets_counts_each_the_same() -> None:
    found = mean_over([[Measured(0.4, 10, 0.03)], [Measured(0.6, 1000, 0.04)]])
    assert found == [Measured(pytest.approx(0.5), 1010, pytest.approx(0.025))]

"""The properties that the paper claims for its rule, and how it compares with the exact search."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from search.budget import Budget, InfeasibleBudgetError
from search.ecmt import decoder_columns, find_by_rule
from search.find import Finder
from search.finders import Finders
from tests.tiny import tiny_model, tiny_table


@pytest.fixture(scope="module")
def finder() -> Finder:
    model = tiny_model()
    return Finders(model, tiny_table(model)).at()


def draws(finder: Finder, count: int) -> list[tuple[dict[str, float], Budget]]:
    rng = Random(3)
    return [
        (
            {task: rng.random() ** rng.choice([1, 4]) for task in finder.tasks},
            Budget(fraction=rng.uniform(0.12, 1)),
        )
        for _ in range(count)
    ]


def test_the_rule_keeps_the_budget_and_never_beats_the_search(finder: Finder) -> None:
    for preferences, budget in draws(finder, 100):
        rule = find_by_rule(finder, None, preferences, budget)
        assert budget.fraction is not None
        assert rule.fraction <= budget.fraction
        best = finder.find(None, preferences, budget, tolerance=0)
        assert rule.quality <= best.quality + 1e-9


def test_a_preferred_task_never_has_the_narrower_decoder(finder: Finder) -> None:
    for preferences, budget in draws(finder, 100):
        subnet = find_by_rule(finder, None, preferences, budget).subnet
        widths = [subnet[f"decoder.{task}"] for task in sorted(preferences, key=preferences.get)]  # type: ignore[arg-type]
        assert widths == sorted(widths, key=float)


def test_quality_never_falls_as_the_budget_grows(finder: Finder) -> None:
    for preferences, _ in draws(finder, 20):
        qualities = [
            find_by_rule(finder, None, preferences, Budget(fraction=fraction)).quality
            for fraction in np.linspace(0.12, 1, 25)
        ]
        assert qualities == sorted(qualities)


def test_a_one_hot_preference_puts_the_other_decoders_at_their_minimum(finder: Finder) -> None:
    for task in finder.tasks:
        for fraction in (0.2, 0.6, 1.0):
            subnet = find_by_rule(finder, None, {task: 1}, Budget(fraction=fraction)).subnet
            others = {subnet[f"decoder.{other}"] for other in finder.tasks if other != task}
            assert others == {0.25}


def test_permuting_the_tasks_permutes_the_decoders() -> None:
    rng = np.random.default_rng(0)
    macs = np.tile(np.array([10, 30, 60, 100])[None, :, None], (3, 1, 5))
    for _ in range(50):
        weights, order = rng.random(5), rng.permutation(5)
        share = float(rng.random())
        columns = decoder_columns(macs, weights, share)
        permuted = decoder_columns(macs[:, :, order], weights[order], share)
        assert np.array_equal(columns[:, order], permuted)


def test_what_a_full_decoder_cannot_use_goes_to_the_others() -> None:
    macs = np.array([10, 30, 60, 100])[None, :, None] * np.ones((1, 1, 3), dtype=np.int64)
    columns = decoder_columns(macs, np.array([0.8, 0.15, 0.05]), 0.7)
    # Of 210 the first can use 100, and the other two share 110 three to one: 82.5 and 27.5.
    assert columns.tolist() == [[3, 2, 0]]
    assert decoder_columns(macs, np.array([0.6, 0.2, 0.2]), 1.0).tolist() == [[3, 3, 3]]
    assert decoder_columns(macs, np.array([1.0, 0.0, 0.0]), 1.0).tolist() == [[3, 0, 0]]


def test_equal_weights_have_equal_decoders_even_at_unequal_cost() -> None:
    macs = np.array([[[10, 20], [100, 300]]])
    assert decoder_columns(macs, np.array([0.5, 0.5]), 0.55).tolist() == [[0, 0]]


def test_an_infeasible_budget_and_a_floor_are_refused(finder: Finder) -> None:
    with pytest.raises(InfeasibleBudgetError, match="is too small"):
        find_by_rule(finder, None, None, Budget(macs=1))
    with pytest.raises(ValueError, match="no min_quality"):
        find_by_rule(finder, None, None, Budget(min_quality=0.9))


def test_the_rule_repeats(finder: Finder) -> None:
    for preferences, budget in draws(finder, 10):
        one = find_by_rule(finder, None, preferences, budget)
        assert one.subnet == find_by_rule(finder, None, preferences, budget).subnet

"""Accuracies are drawn as they are measured: all cells on the same inputs, hard for all or easy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from search.quality.smooth import rising, smooth, with_largest
from search.quality.table import FloatArray

AXES = (4, 4, 4, 3)


def additive(rng: np.random.Generator, axes: tuple[int, ...] = AXES) -> FloatArray:
    """Return accuracies that rise along every axis by effects of their own."""
    truth = np.full(axes, 0.55)
    for axis, length in enumerate(axes):
        effects = np.sort(rng.uniform(0, 0.06, length))
        truth += effects.reshape([length if a == axis else 1 for a in range(len(axes))])
    return truth


def outcomes(rng: np.random.Generator, truth: FloatArray, n: int) -> NDArray[np.bool_]:
    """Draw n inputs, each with a difficulty that all cells share and a little luck of each cell."""
    shared = rng.normal(0, 0.9, (n, *[1] * truth.ndim))
    own = rng.normal(0, np.sqrt(1 - 0.9**2), (n, *truth.shape))
    # A cell is right where its skill beats the difficulty: truth is the share of such inputs.
    skill = np.quantile(rng.normal(0, 1, 200_000), truth.ravel()).reshape(truth.shape)
    right: NDArray[np.bool_] = shared + own < skill
    return right


def error(found: FloatArray, truth: FloatArray) -> float:
    """Return the root mean square error but for what all cells share, which no choice turns on."""
    difference = found - truth
    return float((difference - difference.mean()).std())


@pytest.mark.parametrize("seed", range(5))
def test_an_additive_truth_is_recovered_far_better_than_by_the_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = additive(rng)
    drawn = outcomes(rng, truth, 250)
    expected = smooth({"fish": drawn})["fish"]
    assert expected.shape == truth.shape
    assert error(expected, truth) < 0.6 * error(drawn.mean(axis=0), truth)


def test_tasks_with_the_same_effects_lend_each_other_strength() -> None:
    rng = np.random.default_rng(0)
    truth = additive(rng)
    drawn = {str(i): outcomes(rng, truth, 120) for i in range(12)}
    together = smooth(drawn)
    errors = [
        (error(together[task], truth), error(smooth({task: own})[task], truth))
        for task, own in drawn.items()
    ]
    shared, alone = np.mean(errors, axis=0)
    assert shared < 0.7 * alone


def test_tasks_with_effects_of_their_own_keep_them_where_inputs_are_many() -> None:
    rng = np.random.default_rng(0)
    truths = {str(i): additive(rng) for i in range(4)}
    drawn = {task: outcomes(rng, truth, 4000) for task, truth in truths.items()}
    together = smooth(drawn)
    for task, truth in truths.items():
        assert error(together[task], truth) < 1.1 * error(smooth({task: drawn[task]})[task], truth)


@pytest.mark.parametrize("seed", range(3))
def test_a_truth_far_from_additive_is_left_as_measured_where_inputs_are_many(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = outcomes(rng, rng.uniform(0.3, 0.8, (4, 4, 3)), 4000)
    measured = drawn.mean(axis=0)
    shift = np.abs(smooth({"fish": drawn})["fish"] - measured)
    assert shift.max() < 0.01
    assert measured.std() > 0.1


def test_an_additive_truth_gives_scores_that_never_fall_along_any_axis() -> None:
    rng = np.random.default_rng(0)
    tasks = {str(i): outcomes(rng, additive(rng), 60) for i in range(3)}
    for expected in smooth(tasks).values():
        for axis in range(len(AXES)):
            # Up to the little that the cells' own scores may keep.
            assert np.diff(expected, axis=axis).min() > -0.02


def test_tasks_may_have_axes_of_their_own_or_none() -> None:
    rng = np.random.default_rng(0)
    shapes = {"fish": (4, 3, 2), "flowers": (4, 3, 5), "people": (4, 3)}
    expected = smooth({task: outcomes(rng, additive(rng, s), 50) for task, s in shapes.items()})
    assert {task: found.shape for task, found in expected.items()} == shapes


def test_neighbours_that_fall_are_pooled() -> None:
    assert rising([1, 3, 2, 2, 5]) == pytest.approx([1, 7 / 3, 7 / 3, 7 / 3, 5])
    assert rising([3, 2, 1]) == pytest.approx([2, 2, 2])
    assert rising([]) == []


def test_one_seed_gives_one_answer() -> None:
    rng = np.random.default_rng(3)
    drawn = {"fish": outcomes(rng, additive(rng), 60)}
    assert (smooth(drawn, seed=5)["fish"] == smooth(drawn, seed=5)["fish"]).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_hardly_any_inputs_are_no_error(n: int) -> None:
    assert (smooth({"fish": np.ones((n, 2, 2), dtype=np.bool_)})["fish"] == 1).all()


def test_the_largest_subnet_stays_where_it_was_measured_and_nothing_is_told_too_high() -> None:
    """What the widest values add together is more than they add alone."""
    rng, tasks, inputs = np.random.default_rng(0), 20, 4000
    truth = np.array([[0.50, 0.52], [0.52, 0.62]])
    outcomes = {f"t{t}": rng.random((inputs, 2, 2)) < truth for t in range(tasks)}
    scores = {task: own.mean(axis=0) for task, own in outcomes.items()}
    plain = smooth(outcomes)
    found = with_largest(scores, plain)
    for task, score in scores.items():
        assert found[task][-1, -1] == score[-1, -1]
    before, after = (
        np.mean([own / own[-1, -1] for own in one.values()], axis=0) for one in (plain, found)
    )
    kept = truth / truth[-1, -1]
    assert abs(after - kept).max() < 0.5 * abs(before - kept).max() + 0.003

from __future__ import annotations

import numpy as np
import pytest

from search.quality.audit import HALF_LIFE, AgreementSample, Running, Seen, part_kept

CONFIDENCE = 0.95


def test_a_sample_loses_half_its_weight_with_each_half_life() -> None:
    running = Running()
    for _ in range(400):
        running.add(1.0)
    for _ in range(HALF_LIFE):
        running.add(0.0)
    assert running.mean == pytest.approx(0.5)


def test_bounds_hold_as_often_as_their_confidence_says() -> None:
    rng, above, running = np.random.default_rng(0), 0, Running()
    for _ in range(400):
        running = Running()
        for value in rng.normal(3.0, 2.0, 200):
            running.add(value)
        above += running.bounds(CONFIDENCE).high > 3.0
    assert 0.91 < above / 400 < 0.99
    bounds = running.bounds(0.5)
    assert bounds.low == bounds.mean == bounds.high


def test_a_drift_raises_the_ratio_within_few_samples_and_a_recovery_lowers_it() -> None:
    rng, seen = np.random.default_rng(0), Seen()

    def ratio_after(agreement: float, samples: int) -> float:
        for _ in range(samples):
            seen.add(AgreementSample(3, agreement + rng.normal(0, 0.01), 0.9))
        return seen.ratio(3, CONFIDENCE)

    assert ratio_after(0.9, 100) < 1.1
    assert ratio_after(0.8, 6) > 1.4
    assert ratio_after(0.8, 50) == pytest.approx(2.0, abs=0.15)
    assert ratio_after(0.9, 100) < 1.1


def test_better_than_expected_promises_no_more() -> None:
    seen = Seen()
    for _ in range(50):
        seen.add(AgreementSample(0, 0.99, 0.9))
    assert seen.ratio(0, CONFIDENCE) == 1.0


def test_a_point_of_its_own_disagreement_is_judged_by_the_worse_of_both() -> None:
    seen = Seen()
    for i in range(200):
        seen.add(AgreementSample(0, 0.9, 0.9) if i % 8 else AgreementSample(1, 0.7, 0.9))
    assert seen.ratio(1, CONFIDENCE) > 2.9
    assert seen.ratio(0, CONFIDENCE) < 2.5


def test_what_a_point_showed_long_ago_says_nothing_of_today() -> None:
    seen = Seen()
    for _ in range(20):
        seen.add(AgreementSample(1, 0.7, 0.9))
    for _ in range(100):
        seen.add(AgreementSample(0, 0.9, 0.9))
    assert seen.ratio(1, CONFIDENCE) < 1.2


def test_samples_without_an_expectation_are_shown_and_change_no_promise() -> None:
    seen = Seen()
    seen.add(AgreementSample(2, 0.4, None, 0.8))
    assert seen.ratio(2, CONFIDENCE) == 1.0
    assert seen.points[2].agreement.mean == pytest.approx(0.4)
    assert seen.points[2].ranks.mean == pytest.approx(0.8)


def test_what_is_kept_is_the_part_of_the_agreement_that_is_left() -> None:
    kept = part_kept(np.array([1.0, 0.9, 0.8]), np.array(1.5))
    np.testing.assert_allclose(kept, [1.0, 0.85 / 0.9, 0.7 / 0.8])
    np.testing.assert_array_equal(part_kept(np.array([0.2]), np.array(9.0)), [0.0])

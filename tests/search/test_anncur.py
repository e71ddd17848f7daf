from __future__ import annotations

import numpy as np
import pytest

from search.anncur import Anchors, Duel, duel_for, duels, num_anchors
from search.quality.table import FloatArray

ITEMS = 200


def planted(queries: int, rank: int, noise: float = 0.0, seed: int = 0) -> FloatArray:
    items = np.random.default_rng(9).normal(size=(rank, ITEMS))
    rng = np.random.default_rng(seed)
    found: FloatArray = rng.normal(size=(queries, rank)) @ items
    return found + noise * rng.normal(size=found.shape)


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_as_many_anchors_as_the_rank_give_all_scores_exactly(rank: int) -> None:
    known, new = planted(60, rank), planted(10, rank, seed=1)
    anchors = Anchors.of(known, rank)
    np.testing.assert_allclose(anchors.estimate(new[:, anchors.items]), new, atol=1e-6)


def test_estimates_are_those_of_the_published_formula() -> None:
    """C · pinv(C[anchors]) · R, with the new queries' scores as rows of C."""
    known, new = planted(30, 50, noise=1.0), planted(4, 50, noise=1.0, seed=1)
    anchors = Anchors.of(known, 12)
    expected = new[:, anchors.items] @ np.linalg.pinv(known[:, anchors.items]) @ known
    np.testing.assert_allclose(anchors.estimate(new[:, anchors.items]), expected, rtol=1e-6)
    likely = anchors.likely(new[0, anchors.items], 7)
    order = [i for i in np.argsort(-expected[0]) if i not in set(anchors.items.tolist())]
    assert likely.tolist() == order[:7]
    assert len(anchors.likely(new[0, anchors.items], 10**6)) == ITEMS - 12


def test_both_ways_find_what_a_plain_loop_finds_for_equal_calls() -> None:
    known, scores = planted(40, 8, noise=0.3), planted(12, 8, noise=0.3, seed=1)
    cosines = scores + 4 * np.random.default_rng(2).normal(size=scores.shape)
    for one in duels(known, scores, cosines):
        anchors = Anchors.of(known, num_anchors(one.calls))
        assert len(anchors.items) < one.calls
        by_cur, by_list = [], []
        for row, near in zip(scores, cosines, strict=True):
            best = set(np.argsort(-row)[: one.k].tolist())
            guess = anchors.estimate(row[anchors.items])
            seen = set(anchors.items.tolist())
            for i in np.argsort(-guess).tolist():
                if len(seen) < one.calls:
                    seen.add(i)
            by_cur.append(len(best & seen) / one.k)
            by_list.append(len(best & set(np.argsort(-near)[: one.calls].tolist())) / one.k)
        assert one.cur == pytest.approx(np.mean(by_cur))
        assert one.listed == pytest.approx(np.mean(by_list))
        error = np.std(np.subtract(by_cur, by_list), ddof=1) / np.sqrt(12)
        assert one.n == 12
        assert one.stderr == pytest.approx(error)


def test_a_poor_list_loses_and_a_good_one_wins_at_few_calls() -> None:
    known, scores = planted(60, 16), planted(20, 16, seed=1)
    rng = np.random.default_rng(3)
    poor, good = (scores + spread * rng.normal(size=scores.shape) for spread in (40.0, 0.2))
    few, many = (next(d for d in duels(known, scores, poor) if d[:2] == (10, c)) for c in (20, 160))
    assert many.cur > many.listed
    better = next(d for d in duels(known, scores, good) if d[:2] == (10, 20))
    assert better.listed > better.cur == few.cur


def test_what_was_measured_is_found_for_what_is_asked() -> None:
    measured = [Duel(k, calls, 0, 0, 0, 9) for calls in (20, 80) for k in (1, 10, 50) if k <= calls]
    assert duel_for(measured, 10, 19) is None
    for k, calls, expected in ((10, 20, (10, 20)), (3, 79, (10, 20)), (60, 500, (50, 80))):
        found = duel_for(measured, k, calls)
        assert found is not None
        assert found[:2] == expected

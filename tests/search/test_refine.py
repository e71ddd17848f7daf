from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from search.beliefs import UNSCORED, Beliefs, overlap, scores_of
from search.lengths import IntArray
from search.quality.table import FloatArray
from search.refine import gains, ideal, next_stage

AGREEMENTS = (0.7, 0.9, 1.0)
EACH = np.array([0.01, 1.0, 4.0])  # cost of one document by rung
N, FIRST = 60, 10


def costs_of(beliefs: Beliefs) -> FloatArray:
    """Of rungs that share nothing."""
    found = np.repeat(EACH[:, None], len(beliefs.mean), axis=1)
    found[np.arange(3)[:, None] <= beliefs.rung] = np.inf
    return found


def refined(
    truth: FloatArray, rng: np.random.Generator, left: float, most: float = math.inf
) -> tuple[Beliefs, float]:
    """Spend a budget on a list of which every rung says as much as it should."""
    seen = [r * truth + math.sqrt(1 - r**2) * rng.standard_normal(len(truth)) for r in AGREEMENTS]
    beliefs, spent = Beliefs.none(len(truth)), 0.0
    while True:
        stage = next_stage(
            beliefs, AGREEMENTS, costs_of(beliefs), np.zeros(3), left - spent, FIRST, most
        )
        if stage is None:
            return beliefs, spent
        spent += stage.cost
        beliefs = beliefs.learn(
            stage.rung, AGREEMENTS[stage.rung], stage.documents, seen[stage.rung][stage.documents]
        )


def dcg(truth: FloatArray, order: IntArray) -> float:
    discounts = 1 / np.log2(np.arange(2, FIRST + 2))
    return float(discounts @ truth[order[:FIRST]])


@pytest.mark.parametrize("budget", [5.0, 20.0, 60.0, 120.0])
def test_no_fixed_policy_of_the_same_cost_orders_better(budget: float) -> None:
    """Over many lists, beside all that score a first part of a cheap order by one rung."""
    rng = np.random.default_rng(0)
    found: list[float] = []
    fixed: dict[int, list[float]] = {}
    for _ in range(100):
        truth = rng.standard_normal(N)
        beliefs, spent = refined(truth, rng, budget)
        assert spent <= budget + 1e-9
        found.append(dcg(truth, beliefs.order))
        cheap = 0.7 * truth + math.sqrt(1 - 0.49) * rng.standard_normal(N)
        order = np.argsort(-cheap)
        for rung in (1, 2):
            count = min(N, int((budget - N * EACH[0]) / EACH[rung]))
            again = AGREEMENTS[rung] * truth + math.sqrt(
                1 - AGREEMENTS[rung] ** 2
            ) * rng.standard_normal(N)
            head = order[:count][np.argsort(-again[order[:count]])]
            fixed.setdefault(rung, []).append(dcg(truth, np.append(head, order[count:])))
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) > max(np.mean(own) for own in fixed.values()) - 2 * error


def test_more_budget_never_orders_much_worse() -> None:
    rng = np.random.default_rng(1)
    means = []
    for budget in (1.0, 10.0, 40.0, 200.0, math.inf):
        scores = [(t, refined(t, rng, budget)[0]) for t in rng.standard_normal((40, N))]
        means.append(np.mean([dcg(truth, beliefs.order) for truth, beliefs in scores]))
    assert all(b > a - 0.1 for a, b in itertools.pairwise(means))
    assert means[-1] == pytest.approx(ideal(N, FIRST), rel=0.05)


def test_the_expected_overlap_is_about_what_is_found() -> None:
    rng = np.random.default_rng(2)
    expected, true = [], []
    for truth in rng.standard_normal((200, N)):
        beliefs, _ = refined(truth, rng, 40.0)
        expected.append(overlap(beliefs, FIRST))
        best = set(np.argsort(-truth)[:FIRST].tolist())
        true.append(len(best & set(beliefs.order[:FIRST].tolist())) / FIRST)
    assert np.mean(expected) == pytest.approx(np.mean(true), abs=0.04)


def test_what_lies_near_a_place_that_counts_is_looked_at_first() -> None:
    scores = np.array([3.0, 0.05, 0.0, -0.05, -3.0])
    beliefs = Beliefs.none(5).learn(0, 0.9, range(5), scores)
    worth = gains(beliefs, 1.0, first=2)
    assert np.argmin(worth) == 4
    assert worth[2] > 10 * worth[4]
    assert not gains(beliefs, 0.5, first=2).any()  # nothing to learn from a coarser look
    assert not gains(beliefs.learn(1, 1.0, range(5), scores), 1.0, first=2).any()


def test_a_cheap_document_goes_before_a_dear_one_of_equal_worth() -> None:
    beliefs = Beliefs.none(4).learn(0, 0.8, range(4), [1.0, 0.1, 0.1, -1.0])
    costs = np.array([[np.inf] * 4, [1.0, 3.0, 1.0, 1.0]])
    stage = next_stage(beliefs, (0.8, 1.0), costs, np.zeros(2), 1.5, first=2)
    assert stage is not None
    assert stage.documents.tolist() == [2]


def test_all_are_scored_first_and_what_does_not_fit_stays_as_it_came() -> None:
    costs = np.repeat(EACH[:, None], 10, axis=1)
    stage = next_stage(Beliefs.none(10), AGREEMENTS, costs, np.zeros(3), 0.055, FIRST)
    assert stage is not None
    assert (stage.rung, stage.documents.tolist()) == (0, [0, 1, 2, 3, 4])
    beliefs = Beliefs.none(10).learn(0, 0.7, stage.documents, [0.1, 0.9, 0.3, 0.5, 0.2])
    assert beliefs.order.tolist() == [1, 3, 2, 4, 0, 5, 6, 7, 8, 9]
    assert (beliefs.rung[5:] == UNSCORED).all()
    assert scores_of(beliefs)[5:].tolist() == [0.1] * 5
    assert next_stage(Beliefs.none(10), AGREEMENTS, costs, np.zeros(3), 0.001, FIRST) is None


def test_a_stage_keeps_its_bound_but_for_one_document() -> None:
    beliefs = Beliefs.none(10).learn(0, 0.7, range(10), np.linspace(1, 0, 10))
    for most, count in ((8.5, 2), (0.1, 1)):
        stage = next_stage(
            beliefs, (0.7, 1.0), np.full((2, 10), 4.0), np.zeros(2), 1e3, FIRST - 1, most
        )
        assert stage is not None
        assert len(stage.documents) == count


def test_scores_of_the_highest_rung_are_its_own_and_follow_the_order() -> None:
    beliefs = Beliefs.none(6).learn(0, 0.8, range(6), [0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    beliefs = beliefs.learn(1, 1.0, [0, 1, 2], [-4.0, 2.0, 5.0])
    found = scores_of(beliefs)
    assert found[:3].tolist() == [-4.0, 2.0, 5.0]
    assert (np.diff(found[beliefs.order]) <= 0).all()


def test_where_one_document_alone_reached_a_rung_the_others_keep_their_distances() -> None:
    beliefs = Beliefs.none(4).learn(0, 0.8, range(4), [0.9, 0.6, 0.5, 0.1])
    beliefs = beliefs.learn(1, 1.0, [0], [0.7])
    found = scores_of(beliefs)
    assert found[0] == 0.7
    assert np.diff(found[1:]) == pytest.approx([-0.1, -0.4])


def test_certain_scores_beside_one_that_is_hardly_doubtful_are_nearly_certain() -> None:
    beliefs = Beliefs.none(4).learn(0, 0.9995, range(4), [0.9, 0.6, 0.4, -0.9])
    beliefs = beliefs.learn(1, 1.0, [0, 1], [0.9, 0.6])
    assert 0.95 < overlap(beliefs, 2) < 1


def test_rungs_of_one_list_are_scaled_together_however_they_came() -> None:
    first = Beliefs.none(8).learn(0, 0.8, range(8), np.linspace(1, 0, 8))
    scores = np.array([2.0, 7.0, 1.0, 5.0])
    at_once = first.learn(1, 1.0, [0, 1, 2, 3], scores)
    in_turn = first.learn(1, 1.0, [0, 1], scores[:2]).learn(1, 1.0, [2, 3], scores[2:])
    assert np.allclose(at_once.mean, in_turn.mean)


@pytest.mark.parametrize("count", [1, 2])
def test_short_lists_and_equal_scores_are_no_special_case(count: int) -> None:
    costs = np.repeat(EACH[:, None], count, axis=1)
    stage = next_stage(Beliefs.none(count), AGREEMENTS, costs, np.zeros(3), math.inf, FIRST)
    assert stage is not None
    beliefs = Beliefs.none(count).learn(0, 0.7, range(count), [0.5] * count)
    assert beliefs.order.tolist() == list(range(count))
    assert overlap(beliefs, FIRST) == pytest.approx(1 / count)
    assert np.isfinite(scores_of(beliefs)).all()


def test_documents_that_were_not_read_are_unscored_in_the_whole_list() -> None:
    part = Beliefs.none(2).learn(1, 0.9, [0, 1], [0.2, 0.7])
    whole = Beliefs.none(4).with_part([3, 1], part)
    assert whole.order.tolist() == [1, 3, 0, 2]
    assert whole.rung.tolist() == [UNSCORED, 1, UNSCORED, 1]
    assert overlap(whole, 2) < overlap(part, 2)
    assert overlap(part, 2) == overlap(part, 1) < 1  # of both places nothing could be missing
    scores = scores_of(whole)
    assert scores[1] == 0.7
    assert scores[0] == scores[2] <= scores[3]


def test_what_counts_beside_decides_the_order_and_what_is_worth_a_look() -> None:
    """A document far ahead by what is beside needs no look; one that it brings near does."""
    cheap = np.array([0.0, 0.1, -0.1, 0.05, -0.05])
    beside = np.array([50.0, 0.0, 0.0, 0.0, -50.0])
    beliefs = Beliefs.none(5, beside).learn(0, 0.7, range(5), cheap)
    assert beliefs.order.tolist()[0] == 0
    assert beliefs.order.tolist()[-1] == 4
    worth = gains(beliefs, 1.0, 2)
    assert max(worth[0], worth[4]) < 1e-6 < min(worth[1:4])
    whole = beliefs.learn(1, 1.0, range(5), cheap)
    assert scores_of(whole) == pytest.approx(cheap + cheap.std() * beside)
    assert overlap(whole, 2) == pytest.approx(1.0, abs=1e-3)

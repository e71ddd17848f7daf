from __future__ import annotations

from math import inf
from random import Random

import pytest

from server.engine.patience import Patience, Wait, patience_s

MOST_S = 2.0


def leave(patience: Patience, times: int, waited_s: float = 1.0, now: float = 0.0) -> float:
    """Let requests be left one after the other; return the time then."""
    for _ in range(times):
        now += 0.2
        patience.note_departure("a", now, waited_s, predicted_s=1.5)
    return now


def test_of_who_has_not_left_nothing_is_known() -> None:
    patience = Patience(MOST_S)
    assert patience.limit_s("a", 0.0) == MOST_S
    patience.note_answer("a", 0.0, 0.1)
    assert patience.limit_s("a", 0.0) == MOST_S


def test_where_most_leave_the_limit_is_below_what_they_waited() -> None:
    patience = Patience(MOST_S)
    now = leave(patience, 20)
    assert patience.limit_s("a", now) == pytest.approx(0.7, rel=0.05)
    assert patience.limit_s("b", now) == MOST_S


def test_where_predictions_are_too_low_the_limit_is_too() -> None:
    patience = Patience(MOST_S)
    for i in range(20):
        patience.note_departure("a", i, waited_s=1.0, predicted_s=0.2)
    assert patience.limit_s("a", 19.0) == pytest.approx(0.14, rel=0.01)


def test_no_limit_is_shorter_than_a_wait_that_nobody_minds() -> None:
    patience = Patience(MOST_S)
    now = leave(patience, 20, waited_s=0.004)
    assert patience.limit_s("a", now) == pytest.approx(0.1, rel=0.05)


def test_a_client_that_ends_with_all_its_connections_is_one_departure() -> None:
    patience = Patience(MOST_S)
    for end in range(1, 8):
        for i in range(32):
            patience.note_departure("a", end + 0.0001 * i, 0.01 * i, predicted_s=0.2)
    assert patience.limit_s("a", 8.0) == MOST_S


def test_some_that_always_leave_soon_do_not_speak_for_those_that_stay() -> None:
    rng, patience = Random(0), Patience(MOST_S)
    for i in range(2000):
        now = 0.01 * i
        if rng.random() < 0.3:
            patience.note_departure("a", now, rng.uniform(0, 0.05), 0.1)
        else:
            patience.note_answer("a", now, rng.uniform(0, 0.1))
        assert patience.limit_s("a", now) == MOST_S


def test_answers_that_came_sooner_do_not_hide_that_all_who_wait_longer_leave() -> None:
    answered = [Wait(0.01 * i, is_left=False) for i in range(90)]
    left = [Wait(1.0, is_left=True)] * 12
    assert patience_s(answered + left) == 1.0
    assert patience_s(answered + left[:7]) == inf  # too few to tell


def test_the_estimate_is_the_median_where_nobody_was_answered() -> None:
    rng = Random(1)
    waits = [Wait(rng.uniform(0, 2), is_left=True) for _ in range(256)]
    assert patience_s(waits) == pytest.approx(1.0, abs=0.2)
    stayed = [Wait(5.0, is_left=False)] * 300
    assert patience_s(waits + stayed) == inf


def test_the_limit_grows_again_until_there_is_none() -> None:
    patience = Patience(MOST_S)
    start = leave(patience, 20)
    limits = [patience.limit_s("a", start + seconds) for seconds in range(30)]
    assert limits == sorted(limits)
    assert limits[5] == pytest.approx(limits[0] * 1.1**5)
    assert limits[-1] == patience.limit_s("a", 1e9) == MOST_S


def test_clients_unheard_of_for_longest_are_forgotten() -> None:
    patience = Patience(MOST_S)
    now = leave(patience, 20)
    for number in range(1024):
        patience.note_answer(f"b{number}", now, 0.1)
    assert patience.limit_s("a", now) == MOST_S

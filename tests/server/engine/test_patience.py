from __future__ import annotations

import pytest

from server.engine.patience import Patience

MOST_S = 2.0


def left(patience: Patience, times: int, now: float = 0.0, waited_s: float = 1.0) -> None:
    for _ in range(times):
        patience.note_departure("a", now, waited_s, waited_s)


def test_of_who_has_not_left_nothing_is_known() -> None:
    patience = Patience(MOST_S)
    assert patience.limit_s("a", 0.0) == MOST_S
    patience.note_answer("a", 0.0)
    assert patience.limit_s("a", 0.0) == MOST_S


def test_where_many_leave_the_limit_is_below_what_they_waited() -> None:
    patience = Patience(MOST_S)
    left(patience, 20)
    assert patience.limit_s("a", 0.0) == pytest.approx(0.7)
    assert patience.limit_s("b", 0.0) == MOST_S


def test_where_predictions_are_too_low_the_limit_is_too() -> None:
    patience = Patience(MOST_S)
    for _ in range(20):
        patience.note_departure("a", 0.0, waited_s=1.0, predicted_s=0.2)
    assert patience.limit_s("a", 0.0) == pytest.approx(0.14)


def test_a_few_that_leave_among_many_that_stay_change_nothing() -> None:
    patience = Patience(MOST_S)
    for _ in range(50):
        left(patience, 1, waited_s=0.01)
        for _ in range(9):
            patience.note_answer("a", 0.0)
    assert patience.limit_s("a", 0.0) == MOST_S


def test_one_who_leaves_at_once_does_not_speak_for_the_others() -> None:
    patience = Patience(MOST_S)
    left(patience, 20)
    left(patience, 1, waited_s=0.001)
    assert patience.limit_s("a", 0.0) == pytest.approx(0.35)


def test_the_limit_grows_again_until_there_is_none() -> None:
    patience = Patience(MOST_S)
    left(patience, 20)
    limits = [patience.limit_s("a", float(now)) for now in range(30)]
    assert limits == sorted(limits)
    assert limits[5] == pytest.approx(0.7 * 1.1**5)
    assert limits[-1] == patience.limit_s("a", 1e9) == MOST_S


def test_clients_unheard_of_for_longest_are_forgotten() -> None:
    patience = Patience(MOST_S)
    left(patience, 20)
    for number in range(1024):
        patience.note_answer(f"b{number}", 0.0)
    assert patience.limit_s("a", 0.0) == MOST_S

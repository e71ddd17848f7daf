from __future__ import annotations

import pytest

from server.promises import Promises


def test_of_a_model_without_requests_a_prediction_gets_a_margin() -> None:
    assert Promises().seconds("a", 0.1) == pytest.approx(0.155)
    assert Promises().reading_s("a") == 0.0


def test_where_predictions_were_missed_a_promise_covers_nearly_all_that_were_seen() -> None:
    promises = Promises()
    for i in range(100):
        promises.note_total("a", 0.01, 0.01 * (4.0 if i % 10 == 0 else 1.0))
    assert promises.seconds("a", 0.1) == pytest.approx(0.4 + 0.03)
    assert promises.seconds("b", 0.1) == pytest.approx(0.155)
    for _ in range(64):  # over
        promises.note_total("a", 0.01, 0.011)
    assert promises.seconds("a", 0.1) == pytest.approx(0.155)


def test_what_comes_on_top_of_any_prediction_is_promised_for_short_ones_too() -> None:
    promises = Promises()
    for _ in range(20):
        promises.note_total("a", 0.1, 0.112)
    assert promises.seconds("a", 0.001) == pytest.approx(0.0015 + 0.012)


def test_the_usual_time_of_reading_follows_what_requests_take() -> None:
    promises = Promises()
    promises.note_reading("a", 0.03)
    assert promises.reading_s("a") == pytest.approx(0.03)
    for _ in range(100):
        promises.note_reading("a", 0.01)
    assert promises.reading_s("a") == pytest.approx(0.01, rel=0.01)


def test_models_unheard_of_for_longest_are_forgotten() -> None:
    promises = Promises()
    promises.note_reading("a", 0.03)
    for number in range(256):
        promises.note_reading(f"b{number}", 0.01)
    assert promises.reading_s("a") == 0.0

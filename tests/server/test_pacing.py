from __future__ import annotations

import pytest

from server.pacing import Pacing


def test_what_fits_shrinks_as_stages_take_longer_than_predicted() -> None:
    pacing = Pacing()
    unknown = pacing.affordable_s("m", 1.0)
    for _ in range(8):
        pacing.note_stage("m", 0.1, 0.4)
    assert pacing.affordable_s("m", 1.0) == pytest.approx(0.25)
    assert pacing.affordable_s("m", 1.0) < unknown == pacing.affordable_s("other", 1.0)
    assert pacing.predicted_s("m", 0.4) == pytest.approx(0.1)


def test_what_comes_on_top_of_short_stages_is_set_aside() -> None:
    pacing = Pacing()
    for _ in range(8):
        pacing.note_stage("m", 0.001, 0.051)
        pacing.note_stage("m", 0.1, 0.1)
    assert pacing.affordable_s("m", 0.25) == pytest.approx(0.2)
    assert pacing.affordable_s("m", 0.01) == 0


def test_an_answer_is_begun_as_early_as_the_longest_lately_took() -> None:
    pacing = Pacing()
    before = pacing.answer_s(100)
    assert pacing.answer_s(1000) > before
    pacing.note_answer(0.001)
    assert pacing.answer_s(100) == before
    pacing.note_answer(0.1)
    assert pacing.answer_s(0) == pytest.approx(0.15)
    for _ in range(100):
        pacing.note_answer(0.001)
    assert pacing.answer_s(0) < 0.04


def test_time_to_score_what_is_read_is_left_by_what_first_stages_took() -> None:
    pacing = Pacing()
    assert 0.01 < pacing.first_s("m", 100) < 0.1
    for _ in range(8):
        pacing.note_first("m", 50, 0.1)
    assert pacing.first_s("m", 100) == pytest.approx(0.2)

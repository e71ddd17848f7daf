from __future__ import annotations

from math import inf
from typing import NamedTuple

import pytest

from server.engine.predict import Pace, Share, batch_seconds, in_time


class Work(NamedTuple):
    share: Share
    deadline: float = inf


def test_a_batch_is_its_first_work_and_what_each_other_adds() -> None:
    works = [Work(Share(5, 2)), Work(Share(7, 3)), Work(Share(9, 4))]
    assert batch_seconds(works) == 5 + 3 + 4
    assert batch_seconds([]) == 0


def test_a_batch_grows_while_the_earliest_deadline_holds() -> None:
    fits = in_time(100.0, pace=1.0)
    head = Work(Share(5, 1), deadline=108.0)
    other = Work(Share(5, 2))
    assert fits([head, other])
    assert not fits([head, other, other])
    assert not in_time(100.0, pace=1.5)([head, other])


def test_without_deadlines_a_batch_grows() -> None:
    assert in_time(100.0, 1.0)([Work(Share(5, 1))] * 50)


def test_a_deadline_that_cannot_hold_any_more_stops_nothing() -> None:
    late = Work(Share(5, 1), deadline=104.0)
    assert in_time(100.0, 1.0)([late, Work(Share(5, 1))])


def test_the_pace_is_what_a_predicted_second_lately_took() -> None:
    pace = Pace()
    assert pace.value == 1
    pace.note(0.0, 5.0)  # not predicted
    assert pace.value == 1
    for _ in range(300):
        pace.note(0.01, 0.02)
    assert pace.value == pytest.approx(2)
    for _ in range(300):
        pace.note(0.01, 0.005)
    assert pace.value == pytest.approx(0.5, rel=0.01)

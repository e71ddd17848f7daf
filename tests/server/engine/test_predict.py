from __future__ import annotations

from math import inf
from typing import NamedTuple

import pytest

from server.engine.predict import InTime, Pace, Share, batch_seconds


class Work(NamedTuple):
    share: Share
    deadline: float = inf
    longest_s: float = inf


def test_a_batch_is_its_first_work_and_what_each_other_adds() -> None:
    works = [Work(Share(5, 2)), Work(Share(7, 3)), Work(Share(9, 4))]
    assert batch_seconds(works) == 5 + 3 + 4
    assert batch_seconds([]) == 0


def grown(works: list[Work], pace: float = 1.0) -> list[bool]:
    return list(map(InTime(100.0, pace), works))


def test_a_batch_grows_while_the_earliest_deadline_holds() -> None:
    head = Work(Share(5, 1), deadline=108.0)
    other = Work(Share(5, 2))
    assert grown([head, other, other]) == [True, True, False]
    assert grown([head, other], pace=1.5) == [True, False]
    assert grown([other, other, head]) == [True, True, True]
    assert grown([other, other, Work(Share(5, 2), deadline=108.0)]) == [True, True, False]


def test_without_deadlines_a_batch_grows() -> None:
    assert all(grown([Work(Share(5, 1))] * 50))


def test_a_deadline_that_cannot_hold_any_more_stops_nothing() -> None:
    late = Work(Share(5, 1), deadline=104.0)
    assert grown([late, Work(Share(5, 1))]) == [False, True]


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


def test_no_batch_grows_for_longer_than_a_limit_but_its_first_work_always_goes() -> None:
    for alone, size in ((0.1, 5), (3.0, 1)):
        fits = InTime(10.0, 1.0, longest_s=0.55)
        answers = [fits(Work(Share(alone, 0.1))) for _ in range(size + 1)]
        assert answers == [True] * size + [False]


def test_no_batch_grows_for_longer_than_a_work_in_it_says() -> None:
    short = Work(Share(0.1, 0.1), longest_s=0.25)
    assert grown([Work(Share(0.1, 0.1)), short, Work(Share(0.1, 0.1))]) == [True, True, False]
    assert grown([Work(Share(0.3, 0.3)), short]) == [True, False]

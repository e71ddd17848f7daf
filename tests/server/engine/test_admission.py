from __future__ import annotations

import pytest

from server.engine.admission import Admission
from server.errors import OverloadedError


class Clock:
    """Time that passes when told to, seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_images_count_while_their_request_is_inside() -> None:
    admission = Admission(8, Clock())
    with admission.reserve(3), admission.reserve(5):
        assert admission.admitted == 8
    assert admission.admitted == 0


def test_room_is_given_back_when_a_request_fails() -> None:
    admission = Admission(8, Clock())
    with pytest.raises(KeyError), admission.reserve(3):
        raise KeyError
    assert admission.admitted == 0


def test_a_request_that_does_not_fit_as_a_whole_gets_no_room_at_all() -> None:
    admission = Admission(8, Clock())
    with admission.reserve(6):
        message = "6 images are being served and 3 more would exceed 8"
        with pytest.raises(OverloadedError, match=message), admission.reserve(3):
            pytest.fail("admitted")
        assert admission.admitted == 6
        with admission.reserve(2):
            assert admission.admitted == 8


def test_before_two_batches_are_done_the_wait_is_a_second() -> None:
    admission = Admission(8, Clock())
    assert admission.drain_s() == 1
    admission.note(4)
    assert admission.drain_s() == 1


def test_the_wait_is_what_is_inside_at_the_recent_rate() -> None:
    clock = Clock()
    admission = Admission(100, clock)
    admission.note(50)  # only says when the window starts
    for _ in range(5):
        clock.now += 2
        admission.note(4)  # 20 images in 10 seconds
    with admission.reserve(30):
        assert admission.drain_s() == pytest.approx(15)
        clock.now += 10  # nothing was done since: the rate has halved
        assert admission.drain_s() == pytest.approx(30)


def test_the_rate_forgets_batches_of_long_ago() -> None:
    clock = Clock()
    admission = Admission(1000, clock)
    for _ in range(40):
        clock.now += 100
        admission.note(1)
    for _ in range(40):
        clock.now += 1
        admission.note(10)
    with admission.reserve(50):
        assert admission.drain_s() == pytest.approx(5)


def test_the_wait_is_never_longer_than_a_minute() -> None:
    clock = Clock()
    admission = Admission(1000, clock)
    admission.note(1)
    clock.now += 100
    admission.note(1)
    with admission.reserve(1000):
        assert admission.drain_s() == 60


def test_a_refusal_says_when_to_come_back_in_whole_seconds() -> None:
    clock = Clock()
    admission = Admission(10, clock)
    admission.note(1)
    clock.now += 1
    admission.note(4)
    with admission.reserve(10), pytest.raises(OverloadedError) as caught, admission.reserve(1):
        pytest.fail("admitted")
    assert caught.value.retry_after_s == 3  # 2.5, rounded up
    assert caught.value.headers == {"Retry-After": "3"}

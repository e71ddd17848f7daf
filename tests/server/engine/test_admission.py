from __future__ import annotations

import asyncio
from math import inf

import pytest

from server.engine.admission import Admission
from server.engine.flows import Flow
from server.errors import OverloadedError


class Clock:
    """Time that passes when told to, seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_inputs_count_while_their_request_is_inside() -> None:
    admission = Admission(8, inf, Clock())
    with admission.reserve(3, 0.0), admission.reserve(5, 0.0):
        assert admission.admitted == 8
    assert admission.admitted == 0


def test_room_is_given_back_when_a_request_fails() -> None:
    admission = Admission(8, inf, Clock())
    with pytest.raises(KeyError), admission.reserve(3, 0.0):
        raise KeyError
    assert admission.admitted == 0


def test_a_request_that_does_not_fit_as_a_whole_gets_no_room_at_all() -> None:
    admission = Admission(8, inf, Clock())
    with admission.reserve(6, 0.0):
        message = "6 inputs are being served and 3 more would exceed 8"
        with pytest.raises(OverloadedError, match=message), admission.reserve(3, 0.0):
            pytest.fail("admitted")
        assert admission.admitted == 6
        with admission.reserve(2, 0.0):
            assert admission.admitted == 8


def test_before_two_batches_are_done_the_wait_is_a_second() -> None:
    admission = Admission(8, inf, Clock())
    assert admission.drain_s() == 1
    admission.note(4)
    assert admission.drain_s() == 1


def test_the_wait_is_what_is_inside_at_the_recent_rate() -> None:
    clock = Clock()
    admission = Admission(100, inf, clock)
    admission.note(50)  # only says when the window starts
    for _ in range(5):
        clock.now += 2
        admission.note(4)  # 20 inputs in 10 seconds
    with admission.reserve(30, 0.0):
        assert admission.drain_s() == pytest.approx(15)
        clock.now += 10  # nothing was done since: the rate has halved
        assert admission.drain_s() == pytest.approx(30)


def test_the_rate_forgets_batches_of_long_ago() -> None:
    clock = Clock()
    admission = Admission(1000, inf, clock)
    for _ in range(40):
        clock.now += 100
        admission.note(1)
    for _ in range(40):
        clock.now += 1
        admission.note(10)
    with admission.reserve(50, 0.0):
        assert admission.drain_s() == pytest.approx(5)


def test_the_wait_is_never_longer_than_a_minute() -> None:
    clock = Clock()
    admission = Admission(1000, inf, clock)
    admission.note(1)
    clock.now += 100
    admission.note(1)
    with admission.reserve(1000, 0.0):
        assert admission.drain_s() == 60


def test_a_refusal_says_when_to_come_back() -> None:
    clock = Clock()
    admission = Admission(10, inf, clock)
    admission.note(1)
    clock.now += 1
    admission.note(4)
    with admission.reserve(10, 0.0):
        caught = refused(admission)
    assert caught.retry_after_s == pytest.approx(2.5)
    assert caught.headers == {"Retry-After": "3", "retry-after-ms": "2500"}


def test_seconds_are_held_from_an_estimate_to_what_is_left() -> None:
    admission = Admission(8, inf, Clock())
    with admission.reserve(2, 0.5) as room, admission.reserve(1, 0.25):
        assert admission.seconds == pytest.approx(0.75)
        room.hold(0.1, 2)
        assert admission.seconds == pytest.approx(0.35)
    assert admission.seconds == 0


def refused(admission: Admission, pace: float = 1.0) -> OverloadedError:
    with pytest.raises(OverloadedError) as caught, admission.reserve(1, 0.1, pace):
        pytest.fail("admitted")
    return caught.value


def test_nobody_is_let_in_while_the_wait_is_too_long() -> None:
    admission = Admission(8, 1.0, Clock())
    with admission.reserve(1, 5.0):  # a request that is long itself finds an idle server
        error = refused(admission)
        assert "about 5 s; above 1 s no more" in error.message
        assert error.retry_after_s == pytest.approx(4.0)  # until the wait is a second
    with admission.reserve(1, 0.6):
        assert "about 1.2 s" in refused(admission, pace=2.0).message
        with admission.reserve(1, 0.1):
            assert admission.admitted == 2


def enter(admission: Admission, flow: Flow, num_items: int = 1, seconds: float = 0.1) -> None:
    """Come in and go again."""
    with admission.reserve(num_items, seconds, flow=flow, running_s=0.5):
        pass


def test_one_clients_long_work_does_not_shut_out_another() -> None:
    admission = Admission(1000, 1.0, Clock())
    with admission.reserve(400, 30.0, flow=Flow("bulk")):
        enter(admission, Flow("other"))
        enter(admission, Flow("bulk"))  # a short request of the same client
        enter(admission, Flow("bulk", priority=-1), 100, 10.0)
        with pytest.raises(OverloadedError):
            enter(admission, Flow("bulk"), 100, 10.0)
        with pytest.raises(OverloadedError):
            enter(admission, Flow("bulk", priority=1))


def test_a_client_below_its_share_gets_room_when_others_have_filled_it() -> None:
    admission = Admission(8, inf, Clock())
    bulk, other = Flow("bulk"), Flow("other")
    with admission.reserve(8, 0.0, flow=bulk), admission.reserve(4, 0.0, flow=other):
        assert admission.admitted == 12
        for flow in (bulk, other):
            with pytest.raises(OverloadedError):
                enter(admission, flow)


def test_a_wait_that_clients_leave_is_for_those_who_say_how_long_they_wait() -> None:
    clock = Clock()
    admission = Admission(64, 2.0, clock)

    def leave() -> None:
        with admission.reserve(1, 1.2):
            clock.now += 1.0
            raise asyncio.CancelledError

    for _ in range(20):
        with pytest.raises(asyncio.CancelledError):
            leave()
    with admission.reserve(1, 0.9):
        error = refused(admission)
        assert "lately left by their clients" in error.message
        assert error.retry_after_s == pytest.approx(0.3)  # 1 s, of which 0.7 is allowed
        with admission.reserve(1, 0.1, is_timed=True), admission.reserve(1, 0.1, flow=Flow("b")):
            pass
    with admission.reserve(1, 1.9):
        pass  # nobody is in its way


def test_a_full_server_names_the_time_after_which_there_is_room_whatever_it_did_before() -> None:
    clock = Clock()
    admission = Admission(100, inf, clock)
    for _ in range(2):
        clock.now += 1000  # next to nothing was asked
        admission.note(1)
    with admission.reserve(100, 10.0), pytest.raises(OverloadedError) as caught:
        enter(admission, Flow(), 20, 2.0)
    assert caught.value.retry_after_s == pytest.approx(2.0)  # until 20 of 100 are done


def test_what_is_known_of_a_clients_texts_corrects_the_next_estimate() -> None:
    admission = Admission(100, 3.0, Clock())
    client = Flow("terse")
    with admission.reserve(10, 2.0, flow=client) as room:
        admission.note_read(room, 1.0)
        room.hold(1.0, 10)
        admission.note_read(room, 9.0)  # a second run of the same items says nothing new
        with admission.reserve(10, 4.0, flow=client) as again:
            assert again.nanoseconds == pytest.approx(2e9)
    with admission.reserve(10, 4.0, flow=Flow("other")) as room:
        assert room.nanoseconds == pytest.approx(4e9)


def test_a_request_that_ends_by_itself_is_let_in_however_long_the_wait() -> None:
    admission = Admission(100, 1.0, lambda: 0.0)
    with admission.reserve(1, 5.0):
        with pytest.raises(OverloadedError), admission.reserve(1, 0.1):
            pass
        with admission.reserve(1, 0.1, ends_by_itself=True):
            assert admission.admitted == 2
        with pytest.raises(OverloadedError), admission.reserve(200, 0.1, ends_by_itself=True):
            pass

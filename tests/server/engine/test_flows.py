"""How long a request waits: held against a simulation of the schedule itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from server.engine.flows import ANY_FLOW, Flow, Flows
from server.engine.schedule import Scheduler, Ticket

BATCH = 8

Request = tuple[Flow, int, float]
"""A flow, how many items it sends and the seconds of each."""


def waited(before: Sequence[Request], asked: Request) -> float:
    """Return how long the schedule lets a request wait beyond what it takes itself."""
    queue: Scheduler[tuple[int, int]] = Scheduler(BATCH, 10**9)
    for number, (flow, items, seconds) in enumerate((*before, asked)):
        for item in range(items):
            ticket = Ticket("key", 0, seconds, flow.client, flow.weight, flow.priority)
            queue.push((number, item), ticket, number)
    now, left, own = 0.0, asked[1], len(before)
    while left:
        batch = queue.next_batch().batch
        now += sum((*before, asked)[number][2] for number, _ in batch)
        left -= sum(number == own for number, _ in batch)
    return now - asked[1] * asked[2]


def predicted(before: Sequence[Request], asked: Request) -> float:
    flows = Flows()
    for flow, items, seconds in before:
        flows.enter(flow, items, items * seconds)
    flow, items, seconds = asked
    return flows.wait_s(flow, items * seconds)


A, B, C = Flow("a"), Flow("b"), Flow("c")
HEAVY, FIRST, LAST = Flow("heavy", 4.0), Flow("first", 1.0, 0), Flow("last", 1.0, 5)

CASES: dict[str, tuple[list[Request], Request]] = {
    "nobody": ([], (A, 5, 1.0)),
    "one client, one by one": ([(A, 1, 1.0)] * 40, (A, 1, 1.0)),
    "a short text behind long ones of the same client": ([(A, 1, 10.0)] * 12, (A, 1, 0.1)),
    "a short text beside a bulk request of another client": ([(A, 400, 1.0)], (B, 1, 0.1)),
    "a short text beside a bulk request of the same client": ([(A, 400, 1.0)], (A, 1, 0.1)),
    "bulk beside bulk of the same client": ([(A, 100, 1.0)], (A, 100, 1.0)),
    "bulk beside bulk of another client": ([(A, 100, 1.0)], (B, 100, 1.0)),
    "bulk beside single texts": ([(A, 1, 1.0)] * 30, (B, 100, 1.0)),
    "a heavy client beside a light one": ([(A, 100, 1.0)], (HEAVY, 100, 1.0)),
    "a light client beside a heavy one": ([(HEAVY, 100, 1.0)], (A, 20, 1.0)),
    "a higher class": ([(LAST, 100, 1.0)], (FIRST, 10, 1.0)),
    "a lower class": ([(FIRST, 100, 1.0)], (LAST, 10, 1.0)),
    "three clients": ([(A, 50, 1.0), (B, 200, 1.0)], (C, 100, 1.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_wait_is_that_of_the_schedule_but_for_a_batch(name: str) -> None:
    before, asked = CASES[name]
    batch_s = BATCH * max((seconds for _, _, seconds in before), default=0.0)
    assert predicted(before, asked) == pytest.approx(waited(before, asked), abs=2 * batch_s)


def test_one_clients_bulk_work_is_no_wait_for_another() -> None:
    flows = Flows()
    flows.enter(A, 400, 30.0)
    assert flows.wait_s(A, 30.0) == pytest.approx(30.0)
    assert flows.wait_s(B, 0.01) < 0.2
    assert flows.wait_s(B, 0.01, running_s=0.5) == pytest.approx(
        0.5, abs=0.2
    )  # nothing is broken off


def test_own_room_does_not_count_and_what_is_over_is_gone() -> None:
    flows = Flows()
    other, own = flows.enter(A, 2, 1.0), flows.enter(A, 1, 3.0)
    assert flows.wait_s(A, 3.0, room=own) == pytest.approx(1.0)
    other.hold(0.25, 2)
    assert flows.wait_s(A, 3.0, room=own) == pytest.approx(0.25)
    assert (flows.items, flows.nanoseconds) == (3, 3_250_000_000)
    for room in (other, own):
        flows.leave(room)
    assert (flows.items, flows.nanoseconds) == (0, 0)
    assert flows.wait_s(A, 3.0) == 0.0


def test_works_that_are_done_are_no_wait() -> None:
    flows = Flows()
    bulk, other = flows.enter(A, 4, 8.0), flows.enter(A, 1, 1.0)
    for left_s in (6.0, 4.0, 2.0):
        bulk.release(2.0)
        assert flows.wait_s(A, 9.0, room=other) == pytest.approx(left_s)
        assert flows.wait_s(B, 0.001) == pytest.approx(min(left_s + 1.0, 1.501))
    bulk.release(2.0)
    flows.leave(bulk)
    bulk.release(2.0)  # an answer that comes when the request is over
    assert flows.nanoseconds == 1_000_000_000


def test_deadlines_decide_what_goes_first_in_a_flow() -> None:
    flows = Flows()
    flows.enter(A, 10, 10.0)
    assert flows.wait_s(A, 1.0, ahead_s=2.0) == pytest.approx(2.0)
    assert flows.wait_s(A, 1.0, ahead_s=99.0) == pytest.approx(10.0)


def test_each_flow_has_an_equal_share_of_the_works() -> None:
    flows = Flows()
    assert flows.share(ANY_FLOW, 100) == 100
    flows.enter(A, 90, 1.0)
    assert (flows.share(A, 100), flows.share(B, 100)) == (100, 50)
    assert (flows.items_of(A), flows.items_of(B)) == (90, 0)


def test_a_flow_is_alone_while_no_other_is_inside() -> None:
    flows = Flows()
    assert flows.is_alone(A)
    own = flows.enter(A, 1, 1.0)
    assert flows.is_alone(A)
    assert not flows.is_alone(B)
    other = flows.enter(B, 1, 1.0)
    assert not flows.is_alone(A)
    flows.leave(other)
    assert flows.is_alone(A)
    flows.leave(own)


@pytest.mark.parametrize("name", CASES)
def test_what_other_processes_hold_counts_as_if_it_were_held_here(name: str) -> None:
    before, (flow, items, seconds) = CASES[name]
    processes = Flows(), Flows(), Flows()
    for number, (of, count, each) in enumerate(before):
        processes[number % 3].enter(of, count, count * each)
    here, *others = processes
    for number, other in enumerate(others):
        here.note_other(number, {(0, "a"): (1.0, 9, 9, 9, 9)} if number else {})
        here.note_other(number, other.own)  # in place of what was told before
    assert here.wait_s(flow, items * seconds) == predicted(before, CASES[name][1])
    assert here.items == sum(count for _, count, _ in before)
    here.forget_others()
    assert here.items == sum(count for _, count, _ in before[::3])
    assert here.nanoseconds == sum(round(1e9 * count * each) for _, count, each in before[::3])

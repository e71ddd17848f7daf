from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.clients.bucket import Limit, Meter

RATE = Limit(capacity=10, rate=2)
DAILY = Limit(capacity=100)
DAY = 86_400.0


def spent(meter: Meter, limit: Limit, cost: float, now: float) -> bool:
    """Spend a cost if it is there."""
    is_there = meter.wait_s(limit, cost, now) == 0
    if is_there:
        meter.spend(cost)
    return is_there


def test_a_full_bucket_gives_its_capacity_at_once_and_then_its_rate() -> None:
    meter = Meter(0.0, 0.0)
    assert sum(spent(meter, RATE, 1, 0.0) for _ in range(20)) == 10
    # 2 a second for 5 seconds, tried ten times a second.
    assert sum(spent(meter, RATE, 1, k / 10) for k in range(1, 51)) == 10


def test_a_pause_refills_up_to_the_capacity_and_no_further() -> None:
    meter = Meter(10.0, 0.0)
    assert meter.wait_s(RATE, 10, 1000.0) == 0
    assert meter.left(RATE) == 10
    assert meter.wait_s(RATE, 10.1, 1000.0) == inf


def test_the_wait_is_what_the_rate_takes_for_what_is_missing() -> None:
    meter = Meter(10.0, 50.0)
    assert meter.wait_s(RATE, 3, 50.0) == 1.5
    assert meter.wait_s(RATE, 3, 51.0) == 0.5
    assert meter.wait_s(RATE, 3, 51.5) == 0


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 3), st.floats(0.1, 10)),  # seconds since the last, and a cost
        min_size=1,
        max_size=60,
    )
)
def test_over_any_stretch_no_more_is_spent_than_capacity_and_rate_allow(
    steps: list[tuple[float, float]],
) -> None:
    meter, now, events = Meter(0.0, 0.0), 0.0, []
    for pause, cost in steps:
        now += pause
        if spent(meter, RATE, cost, now):
            events.append((now, cost))
    for i, (start, _) in enumerate(events):
        total = 0.0
        for end, cost in events[i:]:
            total += cost
            assert total <= RATE.capacity + 2 * (end - start) + 1e-6


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_after_the_wait_that_was_told_the_cost_is_there(costs: list[float]) -> None:
    meter, now = Meter(0.0, 0.0), 0.0
    for cost in costs:
        now += meter.wait_s(RATE, cost, now)
        assert spent(meter, RATE, cost, now)


def test_a_clock_that_is_set_back_gives_nothing_and_goes_on() -> None:
    meter = Meter(10.0, 100.0)
    assert meter.wait_s(RATE, 1, 40.0) == 0.5
    assert meter.wait_s(RATE, 1, 40.25) == 0.25
    assert meter.wait_s(RATE, 1, 40.5) == 0


def test_a_day_that_a_clock_has_been_ahead_does_not_lengthen_the_next() -> None:
    meter = Meter(0.0, 5 * DAY)
    assert spent(meter, DAILY, 100, 5 * DAY)
    assert spent(meter, DAILY, 100, 6 * DAY + 1)  # a day ahead
    assert meter.wait_s(DAILY, 1, 4 * DAY + 60) == DAY - 60  # and a day behind
    assert spent(meter, DAILY, 100, 5 * DAY)


def test_a_daily_quota_comes_back_at_midnight_and_not_before() -> None:
    meter = Meter(0.0, 5 * DAY)
    assert spent(meter, DAILY, 100, 5 * DAY + 10)
    assert meter.wait_s(DAILY, 1, 6 * DAY - 30) == 30
    assert meter.wait_s(DAILY, 100, 6 * DAY) == 0


def test_a_limit_that_is_changed_leaves_what_was_spent() -> None:
    meter = Meter(0.0, 0.0)
    assert spent(meter, DAILY, 60, 1.0)
    assert meter.wait_s(Limit(50), 1, 2.0) > 0
    assert meter.left(Limit(50)) == 0
    assert meter.wait_s(Limit(200), 140, 2.0) == 0


def test_what_is_given_back_can_be_spent_again() -> None:
    meter = Meter(0.0, 0.0)
    meter.spend(10)
    meter.spend(-4)
    assert meter.left(RATE) == 4
    meter.spend(-100)
    assert meter.left(RATE) == 10


@pytest.mark.parametrize("rate", [0.1, 1 / 3, 7.0])
def test_sums_of_floats_refuse_nothing_that_is_there(rate: float) -> None:
    limit, meter = Limit(1, rate), Meter(0.0, 0.0)
    for k in range(1000):
        assert spent(meter, limit, 1, k / rate)

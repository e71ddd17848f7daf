"""What usually comes after a request."""

from __future__ import annotations

import time

import numpy as np
import pytest

from server.engine.demand import Demand, WorkRange

WORK = WorkRange(0.010, 0.001)
WINDOW_S = 2.0**-4


def fed(times: list[float], work: WorkRange = WORK) -> Demand:
    demand = Demand()
    for now in times:
        demand.note(now, work)
    return demand


def after(demand: Demand, window_s: float = WINDOW_S) -> WorkRange:
    ((found_s, work),) = demand.within(window_s, window_s)
    assert found_s == window_s
    return work


def test_windows_are_those_between_two_lengths() -> None:
    assert [window for window, _ in Demand().within(0.03, 0.3)] == [2.0**-5, 2.0**-4, 0.125, 0.25]
    assert Demand().within(1e-9, 1e-4) == []


def test_of_nobody_nothing_is_expected() -> None:
    assert after(Demand()) == (0.0, 0.0)


def test_alone_or_far_apart_nothing_is_expected() -> None:
    assert after(fed([0.0])) == (0.0, 0.0)
    assert after(fed([10.0 * k for k in range(50)])) == pytest.approx((0.0, 0.0))


def test_at_an_even_pace_the_rate_times_the_window_is_expected() -> None:
    demand = fed([0.01 * k for k in range(500)])
    assert after(demand) == pytest.approx((0.06, 0.006))
    assert after(demand, WINDOW_S / 2) == pytest.approx((0.03, 0.003))


def test_in_bursts_more_is_expected_than_their_mean_rate_says() -> None:
    bursts = [second + 0.0001 * k for second in range(20) for k in range(20)]
    even = [k / 20 for k in range(400)]
    assert after(fed(bursts)).whole > 5 * after(fed(even)).whole


def test_a_pair_now_and_then_is_hardly_expected() -> None:
    pairs = [float(k) for k in range(100)] + [50.001]
    assert after(fed(sorted(pairs))).whole < 0.2 * WORK.whole


def test_of_random_arrivals_the_mean_and_one_standard_deviation_are_expected() -> None:
    times = np.cumsum(np.random.default_rng(0).exponential(WINDOW_S / 10, 20_000))
    found = []
    demand = Demand()
    for k, now in enumerate(times.tolist()):
        demand.note(now, WORK)
        if k > 500 and k % 50 == 0:
            found.append(after(demand).whole / WORK.whole)
    assert np.mean(found) == pytest.approx(10 + np.sqrt(10), rel=0.05)


def test_what_cannot_be_made_smaller_is_expected_whole() -> None:
    found = after(fed([0.01 * k for k in range(200)], WorkRange(0.010, 0.010)))
    assert found.least == found.whole == pytest.approx(0.06)


def test_the_first_burst_is_expected_to_go_on() -> None:
    assert after(fed([0.001 * k for k in range(10)])).whole == pytest.approx(9 * WORK.whole)


def test_what_changes_is_learnt_within_a_few_hundred_arrivals() -> None:
    slow = [1.0 * k for k in range(1000)]
    fast = [1000 + 0.001 * k for k in range(1500)]
    assert after(fed(slow)).whole == pytest.approx(0.0, abs=1e-9)
    assert after(fed(slow + fast)).whole == pytest.approx(62 * WORK.whole, rel=0.1)


def test_an_arrival_told_late_counts_as_the_last_before_it() -> None:
    found = after(fed([0.0, 1.0, 0.5, 2.0, 3.0]))
    assert found.whole == pytest.approx(WORK.whole * (1 / 4 + np.sqrt(3) / 4), rel=0.5)


def test_a_flood_is_kept_in_bounds_and_is_cheap() -> None:
    demand = Demand()
    started = time.process_time()
    for k in range(20_000):
        demand.note(1e-5 * k, WORK)
    assert (time.process_time() - started) / 20_000 < 2e-4
    assert max(len(one._open) for one in demand._after) <= 4096
    assert after(demand).whole > 1000 * WORK.whole


def test_work_lies_between_the_least_and_the_whole() -> None:
    assert [WORK.at(part) for part in (0.0, 0.5, 1.0)] == pytest.approx([0.001, 0.0055, 0.010])
    assert [WORK.part(WORK.at(part)) for part in (0.0, 0.3, 1.0)] == pytest.approx([0.0, 0.3, 1.0])
    assert WorkRange(0.01, 0.01).part(0.01) == 0

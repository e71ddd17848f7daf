from __future__ import annotations

from math import inf

import pytest

from server.engine.load import HIGHEST_PRICE, Fixed, Moment, Price, SlackFit, policy

TARGET_S = 0.05


def moment(delay_s: float, left_s: float = inf, flops: float = 1e6) -> Moment:
    return Moment(delay_s, left_s, flops)


def test_without_waiting_compute_is_free() -> None:
    load = Price(TARGET_S).decide(moment(0.2 * TARGET_S))
    assert load == (0.0, inf)


def test_the_price_rises_with_the_wait_up_to_the_target_and_no_further() -> None:
    delays = [TARGET_S * part for part in (0.3, 0.5, 0.7, 0.9, 1.0, 5.0)]
    prices = [Price(TARGET_S).decide(moment(delay)).price for delay in delays]
    assert prices == sorted(prices)
    assert prices[0] > 0
    assert prices[-2] == prices[-1] == pytest.approx(HIGHEST_PRICE, rel=0.25)


def test_the_price_is_per_flop_so_that_larger_requests_pay_more() -> None:
    price = Price(TARGET_S)
    for _ in range(200):
        price.decide(moment(0.0))
    delay = 0.6 * TARGET_S
    usual, double = (price.decide(moment(delay, flops=f)).price for f in (1e6, 2e6))
    assert double == pytest.approx(2 * usual, rel=0.3)


def test_a_small_change_of_the_wait_does_not_move_the_price() -> None:
    price = Price(TARGET_S)
    first = price.decide(moment(0.60 * TARGET_S)).price
    for part in (0.605, 0.595, 0.61, 0.59):
        assert price.decide(moment(part * TARGET_S)).price == first
    assert price.decide(moment(0.9 * TARGET_S)).price > first


def test_a_latency_budget_leaves_the_run_what_the_wait_does_not_take() -> None:
    assert Price(TARGET_S).decide(moment(0.02, left_s=0.05)).max_seconds == pytest.approx(0.03)


def test_who_has_little_time_pays_for_a_wait_what_others_pay_for_a_longer_one() -> None:
    def price(delay_s: float, left_s: float) -> float:
        return Price(TARGET_S).decide(moment(delay_s, left_s)).price

    half = 0.5 * TARGET_S / 0.6  # left, so that the target is half as far
    assert price(0.02, half) == price(0.04, inf) > price(0.02, inf) > 0
    assert price(0.02, 4 * half) == price(0.02, inf)
    assert price(0.5 * TARGET_S, half) == price(0.02, 0.0) == price(TARGET_S, inf)


def simulate(price: Price, loads: list[float], seconds: float) -> list[list[float]]:
    """Feed a queue that is drained at one second per second; return the delays of each phase.

    A request's cost falls from 1 to 0.1 ms along a concave front as its price rises.
    """
    front = [(0.1 + 0.1 * k, 0.5 + 0.5 * (1 - ((9 - k) / 9) ** 2)) for k in range(10)]  # ms, worth
    backlog_ms, phases = 0.0, []
    for load in loads:
        delays = []
        for _ in range(int(1000 * seconds)):  # one arrival per millisecond of work at full size
            decided = price.decide(moment(backlog_ms / 1000))
            cost, _ = max(front, key=lambda point: point[1] - decided.price * point[0])
            backlog_ms = max(0.0, backlog_ms + cost - 1 / load)
            delays.append(backlog_ms / 1000)
        phases.append(delays)
    return phases


def test_a_step_in_the_load_leads_to_one_level_without_oscillation_and_back() -> None:
    before, during, after = simulate(Price(TARGET_S), [0.5, 3.0, 0.5], seconds=2)
    assert max(before) < 0.25 * TARGET_S
    settled = during[len(during) // 2 :]
    assert max(during) <= 1.05 * TARGET_S  # no overshoot
    assert max(settled) - min(settled) < 0.2 * TARGET_S
    assert max(after[len(after) // 2 :]) < 0.25 * TARGET_S


def test_slackfit_takes_the_largest_bucket_that_fits_the_slack() -> None:
    slackfit = SlackFit(TARGET_S)
    found = [slackfit.decide(moment(0.01, left_s=0.01 + slack)) for slack in (0.02, 0.04, 0.08)]
    for load, slack in zip(found, (0.02, 0.04, 0.08), strict=True):
        assert load.price == 0
        assert slack / 10 ** (1 / 16) < load.max_seconds <= slack
    assert slackfit.decide(moment(0.03, left_s=0.02)).max_seconds == 0
    assert slackfit.decide(moment(0.0)).max_seconds == pytest.approx(2 * TARGET_S, rel=0.16)


def test_fixed_never_slims() -> None:
    assert Fixed().decide(moment(9.0, left_s=0.001)) == (0.0, inf)
    assert not Fixed().heeds_latency


@pytest.mark.parametrize("name", ["price", "slackfit", "fixed"])
def test_policies_go_by_their_names(name: str) -> None:
    assert policy(name, TARGET_S).name == name

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest

from server.engine.load import (
    HIGHEST_PRICE,
    LOWEST_PRICE,
    Fixed,
    Load,
    Moment,
    Price,
    SlackFit,
    policy,
)

TARGET_S = 0.05
WHOLE_S = 0.001
# Seconds and quality of ten subnets: concave, the cheapest takes a tenth.
FRONT = [((0.1 + 0.1 * k) * WHOLE_S, 0.5 + 0.5 * (1 - ((9 - k) / 9) ** 2)) for k in range(10)]


def best(price: float, front: list[tuple[float, float]] = FRONT) -> tuple[float, float]:
    """Return the subnet of most quality less the price of its time."""
    whole_s = front[-1][0]
    return max(reversed(front), key=lambda point: point[1] - price * point[0] / whole_s)


def seconds_at(price: float) -> float:
    return best(price)[0]


def moment(
    delay_s: float = 0.0,
    left_s: float = inf,
    size: float = 1e6,
    now: float = 0.0,
    seconds: Callable[[float], float] = seconds_at,
    num_behind: int = 0,
) -> Moment:
    return Moment(now, delay_s, left_s, size, seconds, num_behind)


def used_to(gap_s: float, count: int = 200) -> tuple[Price, float]:
    """Return a policy that has seen requests at an even pace, without a queue; and the time."""
    price = Price(TARGET_S)
    for k in range(count):
        price.decide(moment(now=k * gap_s))
    return price, count * gap_s


def test_where_nobody_waits_and_nobody_comes_time_is_free() -> None:
    assert Price(TARGET_S).decide(moment()) == (0.0, inf)
    seldom, now = used_to(10.0)
    assert seldom.decide(moment(now=now)) == (0.0, inf)


def test_requests_that_have_arrived_count_before_they_are_read() -> None:
    # The last of some that came at once, of which nothing is known but that they are there.
    alone = Price(TARGET_S).decide(moment()).price
    few, many = (Price(TARGET_S), Price(TARGET_S))
    for price in (few, many):
        _ = price.decide(moment(now=-10.0))
    assert few.decide(moment(num_behind=1)).price == alone == 0
    assert many.decide(moment(num_behind=1000)).price == HIGHEST_PRICE


def test_a_request_alone_may_use_all_of_its_latency_budget() -> None:
    assert Price(TARGET_S).decide(moment(left_s=1.01 * WHOLE_S)).price == 0


def test_pairs_now_and_then_do_not_make_others_smaller() -> None:
    price = Price(TARGET_S)
    for k in range(100):
        assert price.decide(moment(left_s=1.2 * WHOLE_S, now=10.0 * k)).price == 0
        if k % 25 == 24:
            price.decide(moment(left_s=1.2 * WHOLE_S, now=10.0 * k + 0.0001))


def test_a_short_queue_is_free_and_a_long_one_leads_to_the_cheapest() -> None:
    parts = (0.2, 0.9, 0.995, 1.0, 5.0)
    prices = [Price(TARGET_S).decide(moment(TARGET_S * part)).price for part in parts]
    assert prices[:2] == [0, 0]
    assert prices == sorted(prices)
    assert prices[-2] == prices[-1] == pytest.approx(HIGHEST_PRICE)


def test_the_price_is_the_lowest_at_which_what_waits_and_what_comes_is_done_in_time() -> None:
    gap_s = 0.4 * WHOLE_S  # two and a half times what the whole model can do
    price, now = used_to(gap_s, 2000)
    for delay in (0.0, 0.5 * TARGET_S, 0.8 * TARGET_S):
        decided = price.decide(moment(delay, now=now)).price
        assert decided > 0
        horizon_s = 2 * TARGET_S
        each_s = seconds_at(decided)
        left_s = delay + each_s * (1 + horizon_s / gap_s) - horizon_s
        assert left_s <= 0.5 * horizon_s * 1.15  # windows are rounded
        now += gap_s


def test_bursts_seen_before_make_the_first_of_the_next_one_smaller() -> None:
    bursty = Price(TARGET_S)
    for burst in range(10):
        for k in range(150):
            bursty.decide(moment(now=10.0 * burst + 1e-5 * k))
    first = bursty.decide(moment(now=200.0)).price
    assert first > 0
    assert Price(TARGET_S).decide(moment(now=200.0)).price == 0


def test_the_price_is_per_time_so_that_larger_requests_pay_more() -> None:
    price, now = used_to(0.4 * WHOLE_S)
    usual = price.decide(moment(0.9 * TARGET_S, now=now)).price
    twice = moment(0.9 * TARGET_S, size=2e6, now=now, seconds=lambda p: 2 * seconds_at(p))
    double = price.decide(twice).price
    assert usual > 0
    assert double == pytest.approx(2 * usual, rel=0.3)


def test_what_is_cheap_in_time_is_preferred_whatever_its_flops() -> None:
    fast = [(0.5 * WHOLE_S, 0.99), (WHOLE_S, 1.0)]
    price, now = used_to(0.7 * WHOLE_S)
    decided = price.decide(moment(0.97 * TARGET_S, now=now, seconds=lambda p: best(p, fast)[0]))
    assert best(decided.price, fast) == fast[0]


def test_a_latency_budget_leaves_the_run_what_the_wait_does_not_take() -> None:
    assert Price(TARGET_S).decide(moment(0.02, left_s=0.05)).max_seconds == pytest.approx(0.03)


def test_who_has_little_time_pays_for_a_wait_what_others_pay_for_a_longer_one() -> None:
    def price(delay_s: float, left_s: float) -> float:
        return Price(TARGET_S).decide(moment(delay_s, left_s)).price

    assert price(0.45 * TARGET_S, TARGET_S) == 0 < price(0.51 * TARGET_S, TARGET_S)
    assert price(0.95 * TARGET_S, 9.0) == 0 < price(1.01 * TARGET_S, 9.0)
    assert price(0.02, 0.0) == price(2 * TARGET_S, inf) == pytest.approx(HIGHEST_PRICE)


def test_prices_lie_on_a_ladder_so_that_answers_are_remembered() -> None:
    price, now = used_to(0.4 * WHOLE_S)
    found = set()
    for k in range(2000):
        found.add(price.decide(moment(TARGET_S * k / 1500, now=now + 0.0004 * k)).price)
    assert len(found) < 20
    assert min(found - {0.0}) >= LOWEST_PRICE
    assert max(found) <= HIGHEST_PRICE


def test_one_decision_asks_the_search_for_few_prices() -> None:
    asked: list[float] = []

    def counted(price: float) -> float:
        asked.append(price)
        return seconds_at(price)

    price, now = used_to(0.4 * WHOLE_S)
    price.decide(moment(0.9 * TARGET_S, now=now, seconds=counted))
    assert len(asked) <= 8


def simulate(price: Price, loads: list[float], seconds: float) -> list[list[tuple[float, float]]]:
    """Feed a queue that is drained at one second per second; return delay and quality by phase."""
    backlog_s, now = 0.0, 0.0
    phases = []
    for load in loads:
        seen = []
        gap_s = WHOLE_S / load
        for _ in range(int(seconds / gap_s)):
            now += gap_s
            backlog_s = max(0.0, backlog_s - gap_s)
            decided = price.decide(moment(backlog_s, now=now))
            cost_s, quality = best(decided.price)
            seen.append((backlog_s, quality))
            backlog_s += cost_s
        phases.append(seen)
    return phases


def test_a_step_in_the_load_leads_to_one_level_without_oscillation_and_back() -> None:
    before, during, after = simulate(Price(TARGET_S), [0.5, 3.0, 0.5], seconds=2)
    assert {quality for _, quality in before} == {1.0}
    assert max(delay for delay, _ in before) == 0
    delays = [delay for delay, _ in during]
    settled = delays[len(delays) // 2 :]
    assert max(delays) <= 1.05 * TARGET_S  # no overshoot
    assert max(settled) - min(settled) < 0.2 * TARGET_S
    assert {quality for _, quality in after[-100:]} == {1.0}


def level(price: Price, now: float, client: str = "") -> float:
    """Return the price of a request with a wait at which a policy without doubts asks for none."""
    return price.decide(moment(delay_s=0.6 * TARGET_S, now=now)._replace(client=client)).price


def test_who_was_late_is_slimmed_sooner_and_nobody_else() -> None:
    price, now = used_to(10.0)
    assert level(price, now) == 0
    for _ in range(10):
        price.note("tight", is_late=True)
    assert level(price, now, "tight") > 0
    assert level(price, now) == 0


def test_of_many_requests_a_small_part_may_be_late() -> None:
    few, many = (used_to(10.0) for _ in range(2))
    for k in range(500):
        few[0].note("", is_late=k % 100 == 0)
        many[0].note("", is_late=k % 10 == 0)
    assert level(*few) == 0
    assert level(*many) > 0
    for _ in range(1000):
        many[0].note("", is_late=False)
    assert level(*many) == 0


def test_caution_ends_and_is_kept_of_few_clients() -> None:
    price, now = used_to(10.0)
    for k in range(3000):
        price.note(f"{k}", is_late=True)
    for _ in range(10_000):
        price.note("late", is_late=True)
    assert len(price._caution) <= 1024
    for _ in range(1000):
        price.note("late", is_late=False)
    assert level(price, now, "late") == 0


def test_slackfit_takes_the_largest_bucket_that_fits_the_slack() -> None:
    slackfit = SlackFit(TARGET_S)
    found = [slackfit.decide(moment(0.01, left_s=0.01 + slack)) for slack in (0.02, 0.04, 0.08)]
    for load, slack in zip(found, (0.02, 0.04, 0.08), strict=True):
        assert load.price == 0
        assert slack / 10 ** (1 / 16) < load.max_seconds <= slack
    assert slackfit.decide(moment(0.03, left_s=0.02)).max_seconds == 0
    assert slackfit.decide(moment(0.0)).max_seconds == pytest.approx(2 * TARGET_S, rel=0.16)


def test_fixed_never_slims() -> None:
    assert Fixed().decide(moment(9.0, left_s=0.001)) == Load(0.0, inf)
    assert not Fixed().heeds_latency


@pytest.mark.parametrize("name", ["price", "slackfit", "fixed"])
def test_policies_go_by_their_names(name: str) -> None:
    assert policy(name, TARGET_S).name == name

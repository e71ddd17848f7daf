"""Which subnet a request gets when others wait."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import cast

import numpy as np
import pytest

from search.budget import Budget, InfeasibleBudgetError
from search.timing.profile import LatencyProfile, function_of
from server.choose import Choice, Chooser, Question, RequestProgress
from server.engine.engine import Engine
from server.engine.flows import ANY_FLOW, Flows, Room
from server.engine.load import Fixed, LoadPolicy, Price, SlackFit
from server.errors import InvalidRequestError, OverloadedError
from server.served import Served

TARGET_S = 0.05


@dataclass
class FakeEngine:
    """As much of an engine as choosing needs: how long one waits."""

    delay: float = 0.0
    pace: float = 1.0

    def delay_s(self, room: Room, seconds: float, deadline: float = inf) -> float:
        return self.delay


@pytest.fixture(scope="module")
def timed(served: Served) -> Served:
    """The tiny model with a profile by which time follows MACs, 10 ms for the largest subnet."""
    shape = served.inputs.plan_shapes()
    model, table = served.elastic, served.table
    functions = tuple(served.finders.functions)
    steps = {
        function_of(step): step.cost.macs
        for row in table.rows
        for c in range(len(next(iter(table.cells.values())).columns))
        for step in model.plan(
            row | {k: v for cells in table.cells.values() for k, v in cells.columns[c].items()},
            shape,
        )
    }
    largest = served.finder.find().cost.macs
    macs = np.array([steps[function] for function in functions], dtype=np.float64)
    seconds = np.maximum(macs * 0.01 / largest, 1e-9)[:, None, None] * np.array([1.0, 2.0])[:, None]
    curves = {function: i for i, function in enumerate(functions)}
    return replace(served, profile=LatencyProfile(curves, (1, 2), (0,), seconds))


def chooser_of(policy: LoadPolicy, delay_s: float = 0.0, pace: float = 1.0) -> Chooser:
    return Chooser(cast(Engine, FakeEngine(delay_s, pace)), policy)


def choose(
    served: Served,
    policy: LoadPolicy,
    budget: Budget | None = None,
    *,
    delay_s: float = 0.0,
    pace: float = 1.0,
    num_works: int = 1,
    spent_s: float = 0.001,
    waited_s: float = 0.0,
    timeout_s: float | None = None,
    chooser: Chooser | None = None,
) -> Choice:
    chooser = chooser or chooser_of(policy, delay_s, pace)
    question = Question(None, None, budget or Budget(), timeout_s=timeout_s)
    shape = served.inputs.plan_shapes()
    room = Flows().enter(ANY_FLOW, num_works, 0.0)
    return chooser.choose(
        served, question, shape, RequestProgress(num_works, spent_s, waited_s, room)
    )


def test_without_waiting_everybody_gets_what_they_ask_for(timed: Served) -> None:
    for policy in (Price(TARGET_S), SlackFit(TARGET_S), Fixed()):
        choice = choose(timed, policy)
        assert choice.selection.cost == timed.finder.find().cost
        assert not choice.is_slimmed
        assert choice.predicted_s == pytest.approx(0.011, rel=0.01)


def test_waiting_slims_by_price_down_to_the_cheapest(timed: Served) -> None:
    choices = [choose(timed, Price(TARGET_S), delay_s=part * TARGET_S) for part in (0, 0.5, 0.8, 1)]
    fractions = [choice.selection.fraction for choice in choices]
    assert fractions == sorted(fractions, reverse=True)
    assert choices[-1].selection.cost == timed.finder.front()[0].cost
    assert [choice.is_slimmed for choice in choices[::3]] == [False, True]


def test_whoever_is_strict_is_never_slimmed_and_a_floor_is_kept(timed: Served) -> None:
    strict = choose(timed, Price(TARGET_S), Budget(strict=True), delay_s=TARGET_S)
    assert strict.selection.cost == timed.finder.find().cost
    assert not strict.is_slimmed
    floor = choose(timed, Price(TARGET_S), Budget(min_quality=0.97), delay_s=TARGET_S)
    assert floor.selection.quality >= 0.97 - 1e-9


def test_the_wait_is_taken_from_the_latency_budget(timed: Served) -> None:
    budget = Budget(latency_ms=12.0)
    free = choose(timed, Price(TARGET_S), budget)
    late = choose(timed, Price(TARGET_S), budget, delay_s=0.005)
    assert free.selection.cost == timed.finder.find().cost
    assert late.selection.fraction < 0.65
    assert late.is_slimmed
    assert late.predicted_s <= 0.012 + 1e-9


def test_a_budget_that_only_the_wait_breaks_is_refused_for_now(timed: Served) -> None:
    for policy in (Price(TARGET_S), SlackFit(TARGET_S)):
        with pytest.raises(OverloadedError, match="could be met, but the wait") as caught:
            choose(timed, policy, Budget(latency_ms=12.0), delay_s=0.02)
        assert 0.01 < caught.value.retry_after_s <= 0.02  # until the wait is short enough
    with pytest.raises(OverloadedError):
        choose(timed, Price(TARGET_S), Budget(latency_ms=12.0, strict=True), delay_s=0.005)
    with pytest.raises(InfeasibleBudgetError):
        choose(timed, Price(TARGET_S), Budget(latency_ms=0.01), delay_s=0.02)


def test_a_latency_that_waiting_to_be_read_used_up_is_refused_for_now(timed: Served) -> None:
    with pytest.raises(OverloadedError, match=r"the request waited 11\.5 ms to be read"):
        choose(timed, Price(TARGET_S), Budget(latency_ms=12.0), spent_s=0.012, waited_s=0.0115)


def test_a_latency_that_reading_alone_uses_up_is_refused_for_good_with_one_that_holds(
    timed: Served,
) -> None:
    latency_ms = 1.0
    with pytest.raises(InfeasibleBudgetError, match="is predicted to need") as caught:
        choose(timed, Price(TARGET_S), Budget(latency_ms=latency_ms), spent_s=0.012)
    assert caught.value.field == "latency_ms"
    for spent_s in (0.010, 0.012, 0.014):  # the next request takes another time to read
        choose(
            timed,
            Price(TARGET_S),
            Budget(latency_ms=caught.value.feasible),
            spent_s=spent_s,
            pace=1.1,
        )


def test_a_latency_named_for_a_plan_counts_what_reading_usually_takes(timed: Served) -> None:
    chooser = chooser_of(Price(TARGET_S))
    for _ in range(60):
        choose(timed, Price(TARGET_S), spent_s=0.03, chooser=chooser)
    question = Question(None, None, Budget(latency_ms=20))
    with pytest.raises(InfeasibleBudgetError) as caught:
        chooser.wanted(timed, question, timed.inputs.plan_shapes())
    assert caught.value.feasible > 30
    choose(timed, Price(TARGET_S), Budget(latency_ms=caught.value.feasible), spent_s=0.03)


def test_who_will_have_stopped_waiting_is_refused_for_now(timed: Served) -> None:
    for policy in (Price(TARGET_S), Fixed()):
        with pytest.raises(OverloadedError, match="the client waits 1 s, which would do, but"):
            choose(timed, policy, delay_s=2.0, timeout_s=1.0)
        choose(timed, policy, delay_s=2.0, timeout_s=5.0)
        choose(timed, policy, delay_s=0.0, timeout_s=1e-6)  # nothing is in its way


def test_a_slow_engine_is_reckoned_with(timed: Served) -> None:
    usual = choose(timed, Price(TARGET_S), Budget(latency_ms=12.0))
    slow = choose(timed, Price(TARGET_S), Budget(latency_ms=12.0), pace=2.0)
    assert slow.selection.fraction < 0.6 < usual.selection.fraction
    assert slow.predicted_s <= 0.012 + 1e-9


def test_several_inputs_share_the_latency(timed: Served) -> None:
    assert (
        choose(timed, Price(TARGET_S), Budget(latency_ms=12.0), num_works=2).selection.fraction < 1
    )


def test_slackfit_without_slack_or_latency_gives_the_cheapest(timed: Served) -> None:
    choice = choose(timed, SlackFit(TARGET_S), delay_s=3 * TARGET_S)
    assert choice.selection.cost == timed.finder.front()[0].cost


def test_fixed_heeds_neither_waiting_nor_latency(timed: Served) -> None:
    choice = choose(timed, Fixed(), Budget(latency_ms=2.0), delay_s=9.0)
    assert choice.selection.cost == timed.finder.find().cost
    assert choice.predicted_s > 9


def test_without_measured_times_a_latency_is_refused(served: Served) -> None:
    assert choose(served, Price(TARGET_S)).selection.seconds is None
    with pytest.raises(InvalidRequestError, match="no times have been measured"):
        choose(served, Price(TARGET_S), Budget(latency_ms=5.0))

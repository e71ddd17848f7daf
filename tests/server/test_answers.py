"""What is remembered of the search."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search.budget import Budget, InfeasibleBudgetError, TooSlowError
from search.find import TOLERANCE, Finder, Selection
from search.terms import Terms
from search.timing.profile import LatencyProfile
from search.timing.timing import Timing
from server.answers import Answers, Asked
from server.served import Served

ANYTHING = Asked.of(None, None, Budget(), None)


@pytest.fixture(scope="module")
def finder(served: Served) -> Finder:
    return served.finder


@pytest.fixture
def profile(served: Served) -> LatencyProfile:
    functions = sorted(served.finders.functions, key=repr)
    curves = {function: i for i, function in enumerate(functions)}
    widths = [max(map(int, re.findall(r"\d+", repr(own))), default=1) for _, own in functions]
    return LatencyProfile(curves, (1,), (0,), 0.001 * np.array(widths)[:, None, None])


def moved(profile: LatencyProfile) -> None:
    """Let predictions move."""
    old = profile.corrections
    profile.corrections = old._replace(ratios=2 * old.ratios, version=old.version + 1)


def test_the_same_question_is_searched_once_at_each_price(
    finder: Finder, profile: LatencyProfile
) -> None:
    answers = Answers()
    first = answers.to(finder, ANYTHING, profile, 1)
    assert answers.to(finder, ANYTHING, profile, 1) is first
    assert first.at(0.0) is first.at(0.0)
    assert first.at(0.0).cost.macs > first.at(100.0).cost.macs


def test_limits_on_time_are_searched_once_for_each_answer(
    finder: Finder, profile: LatencyProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = Timing.of(profile, 1)
    slowest_s = finder.find(terms=Terms(timing=timing)).seconds
    assert slowest_s is not None
    limits = slowest_s * np.random.default_rng(0).uniform(0.05, 1.1, 300)
    searches = []

    def counted(*args: Any, **kwargs: Any) -> Selection:
        searches.append(kwargs["terms"].max_seconds)
        return Finder.find(finder, *args, **kwargs)

    monkeypatch.setattr(finder, "find", counted)
    answers = Answers().to(finder, ANYTHING, profile, 1)
    for limit_s in limits:
        for pace in (1.0, 1.5):
            terms = Terms(timing=timing, max_seconds=limit_s, pace=pace)
            slow = expected = None
            try:
                expected = Finder.find(finder, terms=terms)
            except TooSlowError as error:
                slow = error
            if slow is not None:
                with pytest.raises(TooSlowError, match=re.escape(str(slow))) as found:
                    answers.find(0.0, limit_s, pace)
                assert found.value.cheapest_s == pytest.approx(slow.cheapest_s)
                continue
            assert expected is not None
            answer = answers.find(0.0, limit_s, pace)
            assert answer.quality == pytest.approx(expected.quality, abs=TOLERANCE)
            assert answer.seconds is not None
            assert answer.seconds <= limit_s * (1 + 1e-9)
    assert len(set(searches)) == len(searches) < 100  # of 600


def test_other_questions_have_other_answers(finder: Finder, profile: LatencyProfile) -> None:
    answers = Answers()
    asked = [
        ANYTHING,
        Asked.of(["fish"], None, Budget(), None),
        Asked.of(None, {"fish": 1.0}, Budget(), None),
        Asked.of(None, None, Budget(fraction=0.5), None),
    ]
    found = [answers.to(finder, one, profile, 1) for one in asked]
    assert len({id(one) for one in found}) == len(asked)
    assert answers.to(finder, ANYTHING, profile, 4) is not found[0]
    assert found[1].at(0.0).scores.keys() == {"fish"}
    assert found[2].at(0.0).preferences["fish"] == 1
    assert found[3].at(0.0).fraction <= 0.5
    with pytest.raises(InfeasibleBudgetError):
        answers.to(finder, Asked.of(None, None, Budget(macs=1), None), profile, 1).at(0.0)


def test_predictions_that_move_are_taken_up_after_a_moment(
    finder: Finder, profile: LatencyProfile
) -> None:
    answers = Answers()
    answers.keep_version(profile, 10.0)
    first = answers.to(finder, ANYTHING, profile, 1)
    usual_s = first.at(0.0).seconds
    assert usual_s is not None
    moved(profile)
    answers.keep_version(profile, 10.5)
    assert answers.to(finder, ANYTHING, profile, 1) is first
    answers.keep_version(profile, 11.0)
    anew = answers.to(finder, ANYTHING, profile, 1)
    assert anew is not first
    assert anew.at(0.0).seconds == pytest.approx(2 * usual_s)


def test_the_number_of_questions_is_bounded(finder: Finder, profile: LatencyProfile) -> None:
    answers = Answers()
    first = answers.to(finder, ANYTHING, profile, 1)
    for number in range(300):
        budget = replace(ANYTHING.budget, latency_ms=1.0 + number)
        answers.to(finder, ANYTHING._replace(budget=budget), profile, 1)
    assert answers.to(finder, ANYTHING, profile, 1) is not first

"""What is remembered of the search."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from search.budget import Budget, InfeasibleBudgetError
from search.find import Finder
from search.timing.profile import LatencyProfile
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

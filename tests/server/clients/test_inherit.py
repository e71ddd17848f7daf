from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from search.budget import Budget
from server.choose import Question
from server.clients.caller import Caller
from server.clients.inherit import inherited
from server.clients.profile import ClientProfile, Quota, check_profile
from server.errors import InvalidRequestError, UnknownModelError
from server.served import Served

TASKS = {"tiny": ("fish", "flowers", "people"), "small": ("fish",)}


def merged(
    served: Served,
    profile: ClientProfile,
    budget: Budget | None = None,
    preferences: Mapping[str, float] | None = None,
    tasks: list[str] | None = None,
) -> Question:
    caller = Caller("shop", profile=profile)
    return inherited(Question(tasks, preferences, budget or Budget(), caller=caller), served)


def test_a_caller_without_a_profile_changes_no_limit(served: Served) -> None:
    question = Question(None, None, Budget(macs=5))
    assert inherited(question, served) == replace(question, budget=Budget(macs=5, strict=False))


LIMITS = (
    Budget(flops=9e9),
    Budget(macs=9e9),
    Budget(fraction=0.9),
    Budget(min_quality=0.9),
    Budget(latency_ms=9),
)


@pytest.mark.parametrize("budget", LIMITS, ids=lambda budget: str(budget)[7:])
@pytest.mark.parametrize("profile", [None, ClientProfile()], ids=["anyone", "client"])
def test_who_sets_a_limit_may_be_slimmed_and_who_sets_none_may_not(
    served: Served, budget: Budget, profile: ClientProfile | None
) -> None:
    def strict(budget: Budget, slims_all: bool = False) -> bool | None:
        question = Question(None, None, budget, caller=Caller("shop", profile=profile))
        return inherited(question, served, slims_all).budget.strict

    assert strict(budget) is False
    assert strict(replace(budget, strict=True)) is True
    assert strict(Budget()) is True
    assert strict(Budget(strict=False)) is False
    assert strict(Budget(), slims_all=True) is False
    assert strict(Budget(strict=True), slims_all=True) is True


def test_a_client_may_consent_for_its_requests_and_its_maximum_is_no_consent(
    served: Served,
) -> None:
    for own in (*LIMITS, Budget(strict=False)):
        assert merged(served, ClientProfile(budget=own)).budget.strict is False
    for maximum in (Budget(macs=9e9), Budget(latency_ms=9)):
        assert merged(served, ClientProfile(maximum=maximum)).budget.strict is True


def test_a_request_without_a_ceiling_gets_the_default_within_the_maximum(served: Served) -> None:
    profile = ClientProfile(budget=Budget(fraction=0.4), maximum=Budget(fraction=0.8, flops=100))
    assert merged(served, profile).budget == Budget(fraction=0.4, flops=100, strict=False)


def test_a_ceiling_of_the_request_replaces_the_default_ones_and_not_the_maximum(
    served: Served,
) -> None:
    profile = ClientProfile(
        budget=Budget(fraction=0.4, macs=10), maximum=Budget(fraction=0.8, latency_ms=50)
    )
    found = merged(served, profile, Budget(latency_ms=20)).budget
    assert found == Budget(fraction=0.8, latency_ms=20, strict=False)


@pytest.mark.parametrize(
    ("maximum", "asked", "message"),
    [
        (Budget(flops=100), Budget(flops=101), r"budget\.flops=101 .* maximum, 100$"),
        (Budget(flops=100), Budget(macs=51), r"budget\.macs=51 .* maximum, 50$"),
        (Budget(macs=50), Budget(flops=101), r"budget\.flops=101 .* maximum, 100$"),
        (Budget(fraction=0.5), Budget(fraction=0.6), r"budget\.fraction=0\.6 .* maximum, 0\.5$"),
        (Budget(latency_ms=5), Budget(latency_ms=6), r"budget\.latency_ms=6 .* maximum, 5$"),
    ],
)
def test_a_ceiling_above_the_maximum_is_refused_and_not_lowered(
    served: Served, maximum: Budget, asked: Budget, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        merged(served, ClientProfile(maximum=maximum), asked)
    assert caught.value.field == message.partition("=")[0].replace("\\", "")


def test_a_ceiling_equal_to_the_maximum_is_allowed(served: Served) -> None:
    for maximum, asked in ((Budget(flops=100), Budget(macs=50)), (Budget(macs=3), Budget(macs=3))):
        assert merged(served, ClientProfile(maximum=maximum), asked).budget.macs == asked.macs


@pytest.mark.parametrize(
    ("own", "asked", "expected"), [(0.9, None, 0.9), (0.9, 0.7, 0.7), (None, 0.7, 0.7)]
)
def test_the_floor_is_the_requests_else_the_clients(
    served: Served, own: float | None, asked: float | None, expected: float
) -> None:
    profile = ClientProfile(budget=Budget(min_quality=own))
    found = merged(served, profile, Budget(min_quality=asked, macs=1e9)).budget
    assert found.min_quality == expected


@pytest.mark.parametrize(
    ("own", "asked"), [(True, False), (False, True), (True, True), (False, False)]
)
def test_strict_holds_if_either_says_so(served: Served, own: bool, asked: bool) -> None:
    profile = ClientProfile(budget=Budget(strict=own))
    assert merged(served, profile, Budget(strict=asked)).budget.strict == (own or asked)


def test_preferences_are_the_requests_else_those_of_the_client_for_the_model(
    served: Served,
) -> None:
    profile = ClientProfile(preferences={"tiny": {"fish": 2.0, "people": 1.0}, "other": {"x": 1.0}})
    assert merged(served, profile).preferences == {"fish": 2.0, "people": 1.0}
    assert merged(served, profile, preferences={"fish": 1}).preferences == {"fish": 1}
    assert merged(served, ClientProfile()).preferences is None


def test_inherited_preferences_are_for_the_tasks_that_are_asked(served: Served) -> None:
    profile = ClientProfile(preferences={"tiny": {"fish": 2.0, "gone": 1.0}})
    assert merged(served, profile).preferences == {"fish": 2.0}
    assert merged(served, profile, tasks=["people"]).preferences is None


def test_a_model_that_is_not_the_clients_is_as_one_that_is_not_served(served: Served) -> None:
    assert merged(served, ClientProfile(models=("tiny",))).budget == Budget(strict=True)
    with pytest.raises(UnknownModelError, match=r"model='tiny' .* one of \['other'\]"):
        merged(served, ClientProfile(models=("other",)))


@pytest.mark.parametrize(
    ("profile", "message", "field"),
    [
        (
            dict(models=("huge",)),
            r"model 'huge' is not known; one of \['tiny', 'small'\]",
            "models",
        ),
        (dict(preferences={"huge": {}}), "model 'huge' is not known", "preferences.huge"),
        (
            dict(preferences={"tiny": {"cats": 1.0}}),
            r"task 'cats' is not known; one of \['fish'",
            "preferences.tiny.cats",
        ),
        (dict(preferences={"tiny": {"fish": 0.0}}), "above 0", "preferences.tiny"),
        (
            dict(budget=Budget(macs=51), maximum=Budget(flops=100)),
            "macs=51 is above the client's maximum, 50",
            "budget.macs",
        ),
        (
            dict(quota=Quota(request_burst=5)),
            "request_burst=5 needs quota.requests_per_s",
            "quota.request_burst",
        ),
        (
            dict(quota=Quota(flops_per_s=100, flops_burst=9)),
            r"flops_burst=9 must be at least 10: 0.1 s of quota.flops_per_s$",
            "quota.flops_burst",
        ),
        (
            dict(quota=Quota(requests_per_s=100, request_burst=5)),
            "request_burst=5 must be at least 10",
            "quota.request_burst",
        ),
        (
            dict(quota=Quota(flops_per_s=2, flops_burst=5.2e6)),
            r"flops_burst=5\.2e\+06 must be at most 5\.184e\+06: 30 days of quota\.flops_per_s$",
            "quota.flops_burst",
        ),
        (dict(models=("tiny", "tiny")), "models names 'tiny' more than once", "models"),
        (
            dict(models=("small",), preferences={"tiny": {"fish": 1.0}}),
            r"preferences\.tiny: the client may not use this model; models=\['small'\]",
            "preferences.tiny",
        ),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_its_field(
    profile: dict[str, Any], message: str, field: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        check_profile(ClientProfile(**profile), TASKS, {})
    assert caught.value.field == field

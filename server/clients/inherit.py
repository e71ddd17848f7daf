"""What a request inherits from its client: the one rule of precedence.

A value in the body goes before the same one in a header, which goes before the client's. Protocols
merge the first two into a `Question`; this file merges in the third:

- **Ceilings** are the strictest of the request's and the client's maximum. One that the request
  sets above the maximum is refused, never lowered in silence. A request that sets none gets the
  client's default ceilings.
- A **side** (query or document) of a search turns each task into what was measured of that side.
- **Preferences**, the **adapter** and the floor ``min_quality`` are the request's, else the
  client's.
- ``strict`` holds if either says so. If neither says anything, load may make the subnet smaller
  only where the request or the client's default budget sets a limit, or the server's setting says
  so: an answer that is stored and compared later, such as a vector, must not change because others
  waited.
- A **model** that the client may not use is not there: protocols choose among those of
  `Service.models_of`, and none gets past here with another.

Priority and weight are the caller's (`server.clients.caller`). A request can step back, not ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from search.budget import Budget
from search.quality.sides import as_side, side_of
from server.choose import Question
from server.clients.profile import CEILINGS, ClientProfile, check_ceilings
from server.errors import InvalidRequestError, UnknownModelError
from server.served import Served

_MAX_BUDGETS = 128  # decided, that are kept: most requests have one of a few


def inherited(question: Question, served: Served, slims_all: bool = False) -> Question:
    """Return a question with what its caller's profile says beside it; its ``strict`` is decided.

    Args:
        question: As the request asks it.
        served: The model.
        slims_all: Whether load may also make subnets smaller for requests that name no budget.

    Raises:
        InvalidRequestError: If a ceiling is above the client's maximum.
        UnknownModelError: If there is no such model for the client.
    """
    question = _of_side(question, served)
    profile = question.caller.profile
    if profile is None:
        budget = question.budget
        decided = _decided(budget, budget.names_limit or slims_all)
        return question if decided is budget else _within(question, decided)
    if profile.models is not None and served.name not in profile.models:
        raise UnknownModelError(
            f"model={served.name!r} is not served; one of {list(profile.models)}", "model"
        )
    return replace(
        question,
        budget=_budget(question.budget, profile, slims_all),
        preferences=_preferences(question, served, profile),
        adapter=_adapter(question, served, profile),
    )


def _of_side(question: Question, served: Served) -> Question:
    """Return the question with the tasks that the model has for the side of its texts."""
    tasks, side = served.elastic.tasks, question.side
    if len(served.default_tasks) == len(tasks):  # nothing was measured by side
        return question
    preferences = question.preferences
    named = [*served.default_tasks, *(task for task in preferences or () if side_of(task)[1])]
    named = named if question.tasks is None else list(question.tasks)
    if preferences is not None:
        preferences = {as_side(task, side, tasks): w for task, w in preferences.items()}
        if len(preferences) < len(question.preferences or ()):
            raise InvalidRequestError(
                f"preferences={list(question.preferences or ())} name a task twice for "
                f"side={side!r}",
                "preferences",
            )
    return replace(
        question,
        tasks=list(dict.fromkeys(as_side(task, side, tasks) for task in named)),
        preferences=preferences,
    )


def _within(question: Question, budget: Budget) -> Question:
    # Half the time of `replace`, which looks up every field by name.
    return Question(
        question.tasks,
        question.preferences,
        budget,
        question.fixed,
        question.caller,
        question.priority,
        question.timeout_s,
        question.raw,
        question.resident,
        question.side,
        question.adapter,
    )


@lru_cache(_MAX_BUDGETS)
def _decided(budget: Budget, may_shrink: bool) -> Budget:
    return budget if budget.strict is not None else replace(budget, strict=not may_shrink)


def _budget(asked: Budget, profile: ClientProfile, slims_all: bool) -> Budget:
    check_ceilings(asked, profile.maximum)
    has_ceiling = any(getattr(asked, name) is not None for name in CEILINGS)
    first = asked if has_ceiling else profile.budget
    ceilings: dict[str, float | None] = {}
    for name in CEILINGS:
        value = getattr(first, name)
        ceilings[name] = getattr(profile.maximum, name) if value is None else value
    floor = profile.budget.min_quality if asked.min_quality is None else asked.min_quality
    said = {asked.strict, profile.budget.strict}
    strict = True if True in said else False if False in said else None
    # The client's maximum limits, but nobody who asks has consented to less than it.
    has_limit = asked.names_limit or profile.budget.names_limit
    return _decided(Budget(min_quality=floor, strict=strict, **ceilings), has_limit or slims_all)


def _adapter(question: Question, served: Served, profile: ClientProfile) -> str | None:
    stored = profile.adapters.get(served.name) if question.adapter is None else None
    return question.adapter if stored is None or not served.inputs.adapters else stored


def _preferences(
    question: Question, served: Served, profile: ClientProfile
) -> Mapping[str, float] | None:
    if question.preferences is not None:
        return question.preferences
    stored = {
        as_side(task, question.side, served.elastic.tasks): weight
        for task, weight in profile.preferences.get(served.name, {}).items()
    }
    tasks = served.elastic.tasks if question.tasks is None else question.tasks
    # A request may ask for some of the tasks, and a model may have lost one since.
    found = {task: weight for task, weight in stored.items() if task in tasks}
    found = {task: weight for task, weight in found.items() if task in served.elastic.tasks}
    return found if any(found.values()) else None

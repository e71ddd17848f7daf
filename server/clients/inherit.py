"""What a request inherits from its client: the one rule of precedence.

A value in the body goes before the same one in a header, which goes before the client's. Protocols
merge the first two into a `Question`; this file merges in the third:

- **Ceilings** are the strictest of the request's and the client's maximum. One that the request
  sets above the maximum is refused, never lowered in silence. A request that sets none gets the
  client's default ceilings.
- **Preferences** and the floor ``min_quality`` are the request's, else the client's.
- ``strict`` holds if either says so.
- A **model** that the client may not use is not there: protocols choose among those of
  `Service.models_of`, and none gets past here with another.

Priority and weight are the caller's (`server.caller`); a request can step back, never ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from search.budget import Budget
from server.catalog import Served
from server.choose import Question
from server.clients.profile import CEILINGS, Profile, check_ceilings
from server.errors import UnknownModelError


def inherited(question: Question, served: Served) -> Question:
    """Return a question with what its caller's profile says beside it.

    Raises:
        InvalidRequestError: If a ceiling is above the client's maximum.
        UnknownModelError: If there is no such model for the client.
    """
    profile = question.caller.profile
    if profile is None:
        return question
    if profile.models is not None and served.name not in profile.models:
        raise UnknownModelError(
            f"model={served.name!r} is not served; one of {list(profile.models)}", "model"
        )
    return replace(
        question,
        budget=_budget(question.budget, profile),
        preferences=_preferences(question, served, profile),
    )


def _budget(asked: Budget, profile: Profile) -> Budget:
    check_ceilings(asked, profile.maximum)
    has_ceiling = any(getattr(asked, name) is not None for name in CEILINGS)
    first = asked if has_ceiling else profile.budget
    ceilings: dict[str, float | None] = {}
    for name in CEILINGS:
        value = getattr(first, name)
        ceilings[name] = getattr(profile.maximum, name) if value is None else value
    floor = profile.budget.min_quality if asked.min_quality is None else asked.min_quality
    is_strict = asked.strict or profile.budget.strict
    return Budget(min_quality=floor, strict=is_strict, **ceilings)


def _preferences(
    question: Question, served: Served, profile: Profile
) -> Mapping[str, float] | None:
    if question.preferences is not None:
        return question.preferences
    stored = profile.preferences.get(served.name, {})
    tasks = served.elastic.tasks if question.tasks is None else question.tasks
    # A request may ask for some of the tasks, and a model may have lost one since.
    found = {task: weight for task, weight in stored.items() if task in tasks}
    found = {task: weight for task, weight in found.items() if task in served.elastic.tasks}
    return found if any(found.values()) else None

"""When the request at hand had arrived, its last byte read, and how many wait behind it.

Requests of a burst are read at once and then begun one after another, so most of them wait before
anything is done for them. That wait is part of what their clients see.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

# In a scope's state:
ARRIVED = "arrived"  # seconds of `time.perf_counter`
BEHIND = "behind"  # requests that had arrived and not begun when it was begun

_state: ContextVar[Mapping[str, Any]] = ContextVar("arrival")


def follow(state: Mapping[str, Any]) -> None:
    """Take the state of the scope of the request that the task at hand answers."""
    _state.set(state)


def arrived(unknown: float) -> float:
    """Return when the request at hand had arrived, in seconds.

    Args:
        unknown: Returned where no connection said so.
    """
    found: float = _state.get({}).get(ARRIVED, unknown)
    return found


def behind() -> int:
    """Return how many requests waited to be begun when the one at hand was."""
    found: int = _state.get({}).get(BEHIND, 0)
    return found

"""How long works will take, and how wrong that has lately been. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple, Protocol

_FORGET = 0.95  # what a batch weighs less for each later one


class Share(NamedTuple):
    """Predicted seconds of one work.

    Attributes:
        alone: As a batch of its own.
        more: That it adds to a batch.
    """

    alone: float = 0.0
    more: float = 0.0


class Timed(Protocol):
    """A work as far as time goes."""

    @property
    def share(self) -> Share: ...  # noqa: D102

    @property
    def deadline(self) -> float: ...  # noqa: D102


def batch_seconds(works: Sequence[Timed]) -> float:
    """Predict a batch: the first work as if alone, and what each other adds."""
    if not works:
        return 0.0
    return works[0].share.alone + sum(work.share.more for work in works[1:])


def in_time(now: float, pace: float) -> Callable[[Sequence[Timed]], bool]:
    """Return the rule by which a batch grows, for `schedule.Scheduler.next_batch`.

    A batch grows while the earliest deadline in it holds. One that cannot hold any more stops
    nothing: a smaller batch would only make the others late as well.
    """

    def fits(works: Sequence[Timed]) -> bool:
        earliest = min(work.deadline for work in works)
        if earliest == inf:
            return True
        end = now + pace * batch_seconds(works)
        before = now + pace * batch_seconds(works[:-1])
        return end <= earliest or before > min(work.deadline for work in works[:-1])

    return fits


class Pace:
    """Seconds that batches take for each predicted one: the engine's own work comes on top."""

    def __init__(self) -> None:
        self._taken = self._predicted = 0.0

    @property
    def value(self) -> float:
        """Taken over predicted, 1 before the first batch."""
        return self._taken / self._predicted if self._predicted else 1.0

    def note(self, predicted_s: float, taken_s: float) -> None:
        """Record a batch; one that nobody predicted says nothing."""
        if predicted_s > 0:
            self._predicted = _FORGET * self._predicted + predicted_s
            self._taken = _FORGET * self._taken + taken_s

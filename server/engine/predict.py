"""How long items will take, and how wrong that has lately been. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple, Protocol

_FORGET = 0.95  # what a batch weighs less for each later one


class Share(NamedTuple):
    """Predicted seconds of one item.

    Attributes:
        alone: As a batch of its own.
        more: That it adds to a batch.
    """

    alone: float = 0.0
    more: float = 0.0


class Timed(Protocol):
    """An item as far as time goes."""

    @property
    def share(self) -> Share: ...  # noqa: D102

    @property
    def deadline(self) -> float: ...  # noqa: D102

    @property
    def longest_s(self) -> float: ...  # noqa: D102


def batch_seconds(items: Sequence[Timed]) -> float:
    """Predict a batch: the first item as if alone, and what each other adds."""
    if not items:
        return 0.0
    return items[0].share.alone + sum(item.share.more for item in items[1:])


class InTime:
    """The rule by which one batch grows, for `schedule.Scheduler.next_batch`.

    A batch grows while the earliest deadline in it holds. One that cannot hold any more stops
    nothing: a smaller batch would only make the others late as well. No batch grows for longer than
    a limit, since whoever comes next waits for its end, nor than an item in it says.
    """

    def __init__(self, now: float, pace: float, longest_s: float = inf) -> None:
        """Begin with an empty batch.

        Args:
            now: On the clock of the deadlines.
            pace: Seconds that a predicted one takes.
            longest_s: That a batch of several items may be predicted to take.
        """
        self._pace = pace
        self._now = self._end = now
        self._last = now + longest_s
        self._earliest: float | None = None

    def __call__(self, item: Timed) -> bool:
        """Add an item; return whether the deadlines hold with it."""
        share, before = item.share, self._end
        self._last = min(self._last, self._now + item.longest_s)
        if self._earliest is None:
            self._end += self._pace * share.alone
            self._earliest = item.deadline
            return self._end <= self._earliest
        is_late = before > self._earliest
        self._end += self._pace * share.more
        self._earliest = min(self._earliest, item.deadline)
        return self._end <= self._last and (is_late or self._end <= self._earliest)


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

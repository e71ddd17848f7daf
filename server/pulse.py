"""Whether the event loop keeps up with what arrives.

A request passes the loop some twenty times. When more arrive than it can read, each turn takes
longer, requests pile up half read, and all of them are late: nothing that is decided after reading
helps. So the turns are timed, and while they are late requests are refused before anything is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

EVERY_S = 0.02
_PATIENT_S = 0.5  # a collection, or pricing texts of new lengths, makes some turns late
_WARY_S = 0.05  # the same soon after it was behind
_MEMORY_S = 10.0


class PulseStats(NamedTuple):
    """What metrics tell.

    Attributes:
        late_seconds: How late the timer was the last time.
        refusals: Requests refused unread.
    """

    late_seconds: float
    refusals: int


class Pulse:
    """Times a timer.

    Attributes:
        late_s: How late it was the last time, seconds.
        is_behind: Whether it has been late for too long, and still was the last time.
        refusals: Counted by whoever refuses for it.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        """Start on time.

        Args:
            limit_s: Lateness that is none yet.
            clock: Returns seconds; only differences matter.
        """
        self._limit_s = limit_s
        self._clock = clock
        self._late_since: float | None = None
        self._last_behind = -_MEMORY_S
        self.late_s = 0.0
        self.is_behind = False
        self.refusals = 0

    @property
    def stats(self) -> PulseStats:
        """The figures of this moment."""
        return PulseStats(self.late_s, self.refusals)

    async def beat(self) -> None:
        """Go on until cancelled, on the loop that is timed."""
        while True:
            due = self._clock() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.note(due, self._clock())

    def note(self, due: float, now: float) -> None:
        """Take in when the timer was due and when it came."""
        self.late_s = max(0.0, now - due)
        if self.late_s <= self._limit_s:
            self._late_since = None
            self.is_behind = False
            return
        if self._late_since is None:
            self._late_since = due
        is_wary = self.is_behind or now - self._last_behind < _MEMORY_S
        self.is_behind = now - self._late_since >= (_WARY_S if is_wary else _PATIENT_S)
        if self.is_behind:
            self._last_behind = now

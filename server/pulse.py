"""Whether the event loop keeps up with what arrives.

A request passes the loop some twenty times. When more arrive than it can read, each turn takes
longer, requests pile up half read, and all of them are late: nothing that is decided after reading
helps. So the turns are timed. While they are late, only a few requests are read at once, the others
refused unread; and until they have been on time for a while, no more than are answered in
a tenth of a second: all that has piled up in sockets would be let in between two turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import NamedTuple

from server.errors import OverloadedError

EVERY_S = 0.02
_PATIENT_S = 0.3  # a collection, or pricing texts of new lengths, makes some turns late
_WARY_S = 0.05  # the same soon after it was behind
_MEMORY_S = 10.0
_RATE_S = 1.0  # over which answers are counted
_ROOM_S = 0.1  # of answers that may be under way while it is wary
_LEAST_ROOM = 16  # where fewer are being read, the loop is late for another reason


class PulseStats(NamedTuple):
    """What metrics tell.

    Attributes:
        late_seconds: How late the timer was the last time.
        refusals: Requests refused unread.
    """

    late_seconds: float
    refusals: int


class Pulse:
    """Times a timer, and counts what is under way.

    Attributes:
        late_s: How late the timer was the last time, seconds.
        is_behind: Whether it has been late for too long, and still was the last time.
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
        self._wary_until = -inf
        self._inside = self._refusals = 0
        self._answered, self._since, self._rate = 0, clock(), 0.0
        self.late_s = 0.0
        self.is_behind = False

    @property
    def stats(self) -> PulseStats:
        """The figures of this moment."""
        return PulseStats(self.late_s, self._refusals)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a request as under way.

        Raises:
            OverloadedError: If no more can be read.
        """
        room = inf
        if self.is_behind:
            room = _LEAST_ROOM
        elif self._clock() < self._wary_until:
            room = max(_LEAST_ROOM, _ROOM_S * self._rate)
        if self._inside >= room:
            self._refusals += 1
            raise OverloadedError("more requests arrive than can be read", self.late_s)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._count(self._clock())

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
            self._late_since = now  # not ``due``: one stop, however long, is over by now
        is_wary = now < self._wary_until
        self.is_behind = now - self._late_since >= (_WARY_S if is_wary else _PATIENT_S)
        if is_wary or self.is_behind:
            self._wary_until = now + _MEMORY_S

    def _count(self, now: float) -> None:
        self._answered += 1
        if (elapsed := now - self._since) >= _RATE_S:
            self._rate = self._answered / elapsed
            self._answered, self._since = 0, now

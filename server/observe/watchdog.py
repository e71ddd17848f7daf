"""Whether the event loop keeps up with what arrives; if not, some is refused unread.

A request passes the loop some twenty times. When more arrive than it can read, each turn takes
longer, requests pile up half read, and all of them are late: nothing that is decided after reading
helps. So the turns are timed, by a timer. As in CoDel (Nichols and Jacobson 2012, Controlling Queue
Delay; RFC 8289) one long turn is no overload, and an interval in which every turn was late is one.
Then each turn reads for a moment only, and refuses the rest of what it finds, until one is on time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from server.errors import OverloadedError

EVERY_S = 0.02
_INTERVAL_S = 0.1
_MOMENT = 2.0  # for reading in one turn, in limits


class WatchdogStats(NamedTuple):
    """What metrics tell.

    Attributes:
        late_seconds: How late the timer was, the better of the last two times.
        refusals: Requests refused unread.
    """

    late_seconds: float
    refusals: int


class Watchdog:
    """Times a timer, and what is read in each turn of the event loop.

    Attributes:
        late_s: How late the timer was, the better of the last two times, seconds: what a request
            waits to be read, and its answer to be sent, unless the loop has only stopped once.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        """Start on time.

        Args:
            limit_s: Lateness that is none yet.
            clock: Returns seconds; only differences matter.
        """
        self._limit_s = limit_s
        self._clock = clock
        self._late_since = inf
        self._turn_at: float | None = None  # when this turn read its first request
        self._refusals = 0
        self._last_s = self.late_s = 0.0

    @property
    def stats(self) -> WatchdogStats:
        """The figures of this moment."""
        return WatchdogStats(self.late_s, self._refusals)

    def check(self) -> None:
        """Let a request be read; call it on the loop, before anything is done for it.

        Raises:
            OverloadedError: If the loop is behind and this turn has read enough.
        """
        now = self._clock()
        if self._turn_at is None:
            self._turn_at = now
            asyncio.get_running_loop().call_soon(self._end_turn)
        is_behind = now - self._late_since >= _INTERVAL_S
        if is_behind and now - self._turn_at > _MOMENT * self._limit_s:
            self._refusals += 1
            raise OverloadedError("more requests arrive than can be read", self.late_s)

    async def beat(self) -> None:
        """Go on until cancelled, on the loop that is timed."""
        while True:
            due = self._clock() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.note(due, self._clock())

    def note(self, due: float, now: float) -> None:
        """Take in when the timer was due and when it came."""
        late_s = max(0.0, now - due)
        self.late_s, self._last_s = min(late_s, self._last_s), late_s
        if late_s <= self._limit_s:
            self._late_since = inf
        elif self._late_since == inf:
            self._late_since = now  # not ``due``: one stop, however long, is over by now

    def _end_turn(self) -> None:
        self._turn_at = None

"""Whether the event loop keeps up with what arrives; if not, some is refused unread.

When more requests arrive than the loop can begin, all of them are late: nothing that is decided
after reading helps. So their waits are measured, and a timer tells how late the loop itself is. As
in CoDel (Nichols and Jacobson 2012, Controlling Queue Delay; RFC 8289) one long wait is no
overload, and an interval in which every wait was long is one. Then what has waited longer is
refused, until one wait is short.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from server.errors import OverloadedError

EVERY_S = 0.02
_INTERVAL_S = 0.5  # a burst may last so long
_TOO_LONG = 2.0  # limits that a request may have waited while the loop is behind


class WatchdogStats(NamedTuple):
    """What metrics tell.

    Attributes:
        late_seconds: How late the timer was, the better of the last two times.
        refusals: Requests refused unread.
    """

    late_seconds: float
    refusals: int


class Watchdog:
    """Times a timer on the event loop, and knows how long requests waited to be begun.

    Attributes:
        late_s: How late the timer was, the better of the last two times, seconds: what an answer
            waits to be sent, unless the loop has only stopped once.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        """Start on time.

        Args:
            limit_s: Lateness, or a wait, that is none yet.
            clock: Returns seconds; only differences matter.
        """
        self._limit_s = limit_s
        self._clock = clock
        self._late_since = inf
        self._waited_s = 0.0  # the request that waited longest since the timer last came
        self._refusals = 0
        self._last_s = self.late_s = 0.0

    @property
    def stats(self) -> WatchdogStats:
        """The figures of this moment."""
        return WatchdogStats(self.late_s, self._refusals)

    def check(self, waited_s: float) -> None:
        """Let a request be read; call it on the loop, before anything is done for it.

        Args:
            waited_s: Since it arrived.

        Raises:
            OverloadedError: If the loop is behind and the request has waited too long.
        """
        self._waited_s = max(self._waited_s, waited_s)
        is_behind = self._clock() - self._late_since >= _INTERVAL_S
        if is_behind and waited_s > _TOO_LONG * self._limit_s:
            self._refusals += 1
            raise OverloadedError("more requests arrive than can be read", waited_s)

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
        if max(late_s, self._waited_s) <= self._limit_s:
            self._late_since = inf
        elif self._late_since == inf:
            self._late_since = now  # not ``due``: one stop, however long, is over by now
        self._waited_s = 0.0

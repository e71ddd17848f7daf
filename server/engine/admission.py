"""How much work may be inside the server, and when to come back if it is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import OverloadedError

_MAX_RETRY_S = 60.0  # clients take a longer wait as "never"
_WINDOW = 32  # batches over which the drain rate is taken


class Room:
    """What one request holds: a number of works, and the seconds they are predicted to take."""

    def __init__(self, admission: Admission, num_works: int) -> None:
        self._admission = admission
        self.num_works = num_works
        self._nanoseconds = 0

    def hold(self, seconds: float) -> None:
        """Hold this much and no more: an estimate at first, then what is left to be done."""
        nanoseconds = round(1e9 * seconds)
        self._admission.nanoseconds += nanoseconds - self._nanoseconds
        self._nanoseconds = nanoseconds


class Admission:
    """Counts work from before it is decoded until it is answered.

    Used from the event loop only, so it needs no lock.
    """

    def __init__(self, max_works: int, max_wait_s: float, clock: Callable[[], float]) -> None:
        """Open the door.

        Args:
            max_works: Most works inside.
            max_wait_s: A request is refused while those inside are predicted to take longer.
            clock: Returns seconds.
        """
        self._max_works = max_works
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self.admitted = 0
        self.nanoseconds = 0  # whole, so that a sum of millions of them stays exact

    @contextmanager
    def reserve(self, num_works: int, seconds: float, pace: float = 1.0) -> Iterator[Room]:
        """Hold room for all works of a request, or for none.

        Args:
            num_works: Of the request.
            seconds: They are estimated to take.
            pace: Seconds that a predicted second has lately taken.

        Raises:
            OverloadedError: If there is not enough room, or the wait would be too long.
        """
        if self.admitted + num_works > self._max_works:
            raise OverloadedError(
                f"{self.admitted} inputs are being served and {num_works} more would exceed "
                f"{self._max_works}",
                self.drain_s(),
            )
        if (wait_s := pace * self.seconds) > self._max_wait_s:
            raise OverloadedError(
                f"the inputs being served will take about {wait_s:.3g} s; above "
                f"{self._max_wait_s:g} s no more are let in",
                wait_s - self._max_wait_s / 2,
            )
        room = Room(self, num_works)
        room.hold(seconds)
        self.admitted += num_works
        try:
            yield room
        finally:
            room.hold(0.0)
            self.admitted -= num_works

    @property
    def seconds(self) -> float:
        """What is inside is predicted to take."""
        return self.nanoseconds / 1e9

    def note(self, num_works: int) -> None:
        """Record that a batch has just been finished."""
        self._done.append((self._clock(), num_works))

    def drain_s(self) -> float:
        """Return how long the works inside will take at the recent rate, seconds, at most 60."""
        if len(self._done) < 2:
            return 1.0
        since = self._clock() - self._done[0][0]
        # The first batch marks where the window starts; its works were done before.
        finished = sum(size for _, size in self._done) - self._done[0][1]
        return min(_MAX_RETRY_S, self.admitted * since / finished)

"""Which requests are let in, and when those that are not should come back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.engine.estimates import Estimates
from server.engine.flows import ANY_FLOW, Flow, Flows, Room
from server.engine.patience import Patience
from server.engine.returns import Returns
from server.errors import OverloadedError

_MAX_RETRY_S = 60.0  # clients take a longer wait as "never"
_WINDOW = 32  # batches over which the drain rate is taken


class Admission:
    """Counts items from before they are decoded until they are answered.

    A request is let in by the wait that it will have itself (`server.engine.flows`): one client's
    long requests do not shut out the others. Used from the event loop only, so it needs no lock.
    """

    def __init__(self, max_items: int, max_wait_s: float, clock: Callable[[], float]) -> None:
        """Let everybody in.

        Args:
            max_items: Most items inside. A client that has less than its share of them may exceed
                the sum, which so stays below twice as many.
            max_wait_s: A request is refused if it is predicted to wait longer.
            clock: Returns seconds.
        """
        self._max_items = max_items
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._patience = Patience(max_wait_s)
        self._returns = Returns()
        self._estimates = Estimates()
        self.flows = Flows()

    @property
    def admitted(self) -> int:
        """Items inside."""
        return self.flows.items

    @property
    def seconds(self) -> float:
        """What is inside is predicted to take."""
        return self.flows.nanoseconds / 1e9

    @contextmanager
    def reserve(
        self,
        num_items: int,
        seconds: float,
        pace: float = 1.0,
        flow: Flow = ANY_FLOW,
        running_s: float = 0.0,
        is_timed: bool = False,
        reading_wait_s: float = 0.0,
        ends_by_itself: bool = False,
    ) -> Iterator[Room]:
        """Hold room for all items of a request, or for none.

        Args:
            num_items: Of the request.
            seconds: They are estimated to take.
            pace: Seconds that a predicted second has lately taken.
            flow: Whose they are.
            running_s: What the batch that runs now is predicted to take.
            is_timed: Whether the request says itself how long it may take. If not, it is not let in
                for a wait after which its client's requests were lately left.
            reading_wait_s: That it is predicted to wait before its items can be submitted.
            ends_by_itself: Whether it is answered by its deadline with what is done by then; no
                wait is too long for that.

        Raises:
            OverloadedError: If there is not enough room, or the wait would be too long.
        """
        arrived = self._clock()
        estimated_s, seconds = seconds, seconds * self._estimates.ratio(flow.client)
        self._check_room(num_items, flow, pace, seconds)
        # Others are read and run meanwhile, so the longer of the two waits hides the other.
        wait_s = max(reading_wait_s, pace * self.flows.wait_s(flow, seconds, running_s))
        predicted_s = wait_s + pace * seconds
        text, excess_s = "", 0.0
        if not ends_by_itself:
            text, excess_s = self._fault(flow, wait_s, predicted_s, is_timed)
        if text:
            back_s = self._returns.after_s(flow.client, arrived, excess_s, pace * seconds)
            raise OverloadedError(text, back_s)
        room = self.flows.enter(flow, num_items, seconds)
        room.estimated_s = estimated_s
        try:
            yield room
        except asyncio.CancelledError:
            now = self._clock()
            self._patience.note_departure(flow.client, now, now - arrived, predicted_s)
            raise
        else:
            now = self._clock()
            self._patience.note_answer(flow.client, now, now - arrived)
        finally:
            self.flows.leave(room)

    def note_read(self, room: Room, seconds: float) -> None:
        """Record what a request is predicted to take once it is read and has a subnet."""
        self._estimates.note(room.flow.client, room.estimated_s, seconds)
        room.estimated_s = 0.0

    def _check_room(self, num_items: int, flow: Flow, pace: float, seconds: float) -> None:
        share = self.flows.share(flow, self._max_items)
        excess = self.admitted + num_items - self._max_items
        if excess <= 0 or self.flows.items_of(flow) + num_items <= share:
            return
        back_s = self.drain_s()
        if self.seconds > 0:
            room_s = pace * self.seconds * min(1.0, excess / self.admitted)
            back_s = self._returns.after_s(flow.client, self._clock(), room_s, pace * seconds)
        raise OverloadedError(
            f"{self.admitted} inputs are being served and {num_items} more would exceed "
            f"{self._max_items}",
            min(_MAX_RETRY_S, back_s),
        )

    def _fault(
        self, flow: Flow, wait_s: float, predicted_s: float, is_timed: bool
    ) -> tuple[str, float]:
        """Return why a request is not let in, if it is not, and how much too long it would take."""
        if wait_s > self._max_wait_s:
            text = (
                f"this request would wait about {wait_s:.3g} s; above {self._max_wait_s:g} s no "
                "more are let in"
            )
            return text, wait_s - self._max_wait_s
        if is_timed or wait_s <= 0:
            return "", 0.0
        limit_s = self._patience.limit_s(flow.client, self._clock())
        if limit_s < predicted_s and limit_s < self._max_wait_s:
            text = (
                f"this request would take about {predicted_s:.3g} s; most that took more than "
                f"{limit_s:.3g} s were lately left by their clients"
            )
            return text, predicted_s - limit_s
        return "", 0.0

    def note(self, num_items: int) -> None:
        """Record that a batch has just been finished."""
        self._done.append((self._clock(), num_items))

    def drain_s(self) -> float:
        """Return how long the items inside will take at the recent rate, seconds, at most 60.

        For models of which no times are known: a pause before counts as slowness.
        """
        if len(self._done) < 2:
            return 1.0
        since = self._clock() - self._done[0][0]
        # The first batch marks where the window starts; its items were done before.
        finished = sum(size for _, size in self._done) - self._done[0][1]
        return min(_MAX_RETRY_S, self.admitted * since / finished)

"""Threads on which requests take turns, item by item.

Fair queueing by virtual time (Demers, Keshav and Shenker 1989, Analysis and Simulation of a Fair
Queueing Algorithm, SIGCOMM). An item's tag is the virtual time at which it would be done if all
clients were served at once, each by its weight, and each client's requests alike; the least tag
goes first. So a small request goes before all of a large one but what has begun, and nothing waits
for ever, since each item that begins moves the virtual time on. Of one client's requests the one
that is due first has the turn: were all served alike, in an overload all would be late.

One more thread takes only items that are predicted to be short: long ones may hold all others.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, TypeVar

from server.errors import ModelNotReadyError
from server.inputs.piecework import Piecework

T = TypeVar("T")
R = TypeVar("R")

SHORT_S = 0.01  # what is predicted to take no longer is short
_SHORT = round(1e9 * SHORT_S)


_Heap = list[tuple[float, int, Piecework]]


class Turns:
    """A bounded number of threads for an unbounded number of requests, which admission bounds."""

    def __init__(self, num_threads: int) -> None:
        """Create threads once there is something to do.

        Args:
            num_threads: That take any item; one more takes short ones.
        """
        self.num_threads = num_threads
        lock = threading.Lock()
        self._general = threading.Condition(lock)
        self._quick = threading.Condition(lock)
        self._num_idle = 0  # general threads that nobody has called yet
        self._short: _Heap = []
        self._long: _Heap = []
        self._sequence = itertools.count()
        self._now = 0.0  # virtual, nanoseconds
        self._num_requests = Counter[str]()
        self._weights: dict[str, float] = {}
        self._num_due = 0  # requests that are due at some time
        self._nanoseconds = 0  # predicted, of all that waits or runs
        self._threads: list[threading.Thread] = []
        self._is_open = True

    @property
    def waiting_s(self) -> float:
        """Predicted seconds until the threads have done all that waits or runs."""
        return self._nanoseconds / 1e9 / self.num_threads

    def predict_s(self, costs: Sequence[float], client: str = "", weight: float = 1.0) -> float:
        """Predict how long a request would take from now, as far as turns were exactly fair."""
        own_s = sum(costs)
        others = sum(share for name, share in list(self._weights.items()) if name != client)
        share = (self._num_requests[client] + 1) * (others + weight) / weight
        return max(
            max(costs, default=0.0),
            min(self.waiting_s + own_s / self.num_threads, own_s * share / self.num_threads),
        )

    async def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        costs: Sequence[float],
        client: str = "",
        weight: float = 1.0,
        due: float = inf,
    ) -> list[R]:
        """Call a function on all items of a request.

        If the caller is cancelled, or an item fails, what has not begun never will.

        Args:
            function: Called on the threads.
            items: In this order.
            costs: Predicted seconds of each item, above 0.
            client: Whose the request is.
            weight: The client's share, above 0.
            due: When the results are of no use any more, on the clock of all requests.

        Returns:
            The results, in order.

        Raises:
            ModelNotReadyError: If the threads are stopped.
            Exception: Whatever the function raises on the first item that it fails on.
        """
        return await self._done(function, items, costs, client, weight, due, None)

    async def map_for(
        self,
        longest_s: float,
        function: Callable[[T], R],
        items: Sequence[T],
        costs: Sequence[float],
        client: str = "",
        weight: float = 1.0,
        due: float = inf,
    ) -> list[R | None]:
        """As `map`, but return what there is after some seconds, None for each other item."""
        return list(await self._done(function, items, costs, client, weight, due, longest_s))

    async def _done(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        costs: Sequence[float],
        client: str,
        weight: float,
        due: float,
        longest_s: float | None,
    ) -> list[Any]:
        if not items:
            return []
        done = asyncio.get_running_loop().create_future()
        nanoseconds = [max(1, round(1e9 * cost)) for cost in costs]
        request = Piecework(function, items, nanoseconds, client, weight, due, done)
        with self._general:
            self._enter(request)
        try:
            await asyncio.wait([done], timeout=longest_s)
        finally:
            with self._general:
                self._drop(request)
                self._leave(request)
        if not request.errors:
            return request.results
        # An error knows the frames it passed: with a way back, only the collector would free all.
        error = request.errors[min(request.errors)]
        request.errors.clear()
        try:
            raise error
        finally:
            del error, request

    def close(self) -> None:
        """Stop the threads once what runs is done; what waits fails."""
        with self._general:
            self._is_open = False
            for _, _, request in [*self._short, *self._long]:
                self._drop(request)
                request.errors[request.num_begun] = _stopped()
                self._settle(request)
            self._general.notify_all()
            self._quick.notify_all()
        for thread in self._threads:
            thread.join()

    def _enter(self, request: Piecework) -> None:
        if not self._is_open:
            raise _stopped()
        if not self._threads:
            for i in range(self.num_threads + 1):
                work = self._work_short if i == self.num_threads else self._work_any
                thread = threading.Thread(target=work, name=f"decode_{i}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._num_requests[request.client] += 1
        self._weights[request.client] = request.weight
        self._num_due += request.due < inf
        self._nanoseconds += request.left
        self._push(request)

    def _leave(self, request: Piecework) -> None:
        self._num_requests[request.client] -= 1
        self._num_due -= request.due < inf
        if not self._num_requests[request.client]:
            del self._num_requests[request.client], self._weights[request.client]

    def _push(self, request: Piecework) -> None:
        """Queue the next item, and call a thread for it."""
        cost = request.costs[request.num_begun]
        share = self._num_requests[request.client] / request.weight
        request.tag = max(self._now, request.tag) + cost * share
        heapq.heappush(self._heap_of(request), (request.tag, next(self._sequence), request))
        if self._num_idle:
            self._num_idle -= 1
            self._general.notify()
        elif cost <= _SHORT:
            self._quick.notify()

    def _heap_of(self, request: Piecework) -> _Heap:
        return self._short if request.costs[request.num_begun] <= _SHORT else self._long

    def _drop(self, request: Piecework) -> None:
        """Begin nothing more of a request."""
        if request.num_begun < request.end:
            heap = self._heap_of(request)
            heap[:] = [entry for entry in heap if entry[2] is not request]
            heapq.heapify(heap)
            self._nanoseconds -= request.left
            request.end = request.num_begun

    def _settle(self, request: Piecework) -> None:
        """Tell the caller, if nothing runs and nothing is to be begun."""
        if not request.num_running and request.num_begun == request.end:
            with suppress(RuntimeError):  # its loop is closed
                request.done.get_loop().call_soon_threadsafe(_resolve, request.done)

    def _work_any(self) -> None:
        while self._work(self._general, lambda: min(self._short, self._long, key=_first_tag)):
            pass

    def _work_short(self) -> None:
        while self._work(self._quick, lambda: self._short):
            pass

    def _work(self, called: threading.Condition, find: Callable[[], _Heap]) -> bool:
        """Wait for an item and do it; False if there will be none."""
        with called:
            while not (heap := find()):
                if not self._is_open:
                    return False
                self._num_idle += called is self._general
                called.wait()
            request = self._turn(heap)
            index = request.num_begun
            self._now += request.costs[index] / sum(self._weights.values())
            request.num_begun += 1
            request.num_running += 1
            if request.num_begun < request.end:
                self._push(request)
        is_done = request.do(index)
        with called:
            request.num_running -= 1
            self._nanoseconds -= request.costs[index]
            if not is_done:
                self._drop(request)
            self._settle(request)
        return True

    def _turn(self, heap: _Heap) -> Piecework:
        """Take the request out whose turn it is: of the client with the least tag, the first due.

        That one's place is left to the one that had the least tag.
        """
        tag, _, request = heapq.heappop(heap)
        if not self._num_due:
            return request
        own = [i for i, one in enumerate(heap) if one[2].client == request.client]
        place = min(own, key=lambda i: heap[i][2].due, default=None)
        if place is None or heap[place][2].due >= request.due:
            return request
        later_tag, number, first = heap[place]
        heap[place] = (later_tag, number, request)
        first.tag, request.tag = tag, later_tag
        return first


def _first_tag(heap: _Heap) -> float:
    return heap[0][0] if heap else float("inf")


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _stopped() -> ModelNotReadyError:
    return ModelNotReadyError("the server is stopping")

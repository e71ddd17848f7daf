"""The engine's front: admits requests, predicts their waits and hands out their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import NamedTuple

from server.engine.admission import Admission
from server.engine.batch import Waiting
from server.engine.core import Core
from server.engine.flows import ANY_FLOW, BACKGROUND, Flow, Held, Room
from server.engine.item import ItemResult, QueueItem
from server.engine.reservation import Reservation
from server.errors import DeadlineError, InferenceError, ModelNotReadyError, RheostatError

_TELL_EVERY_S = 0.01


class _Promise(NamedTuple):
    """What is held for an item that has no answer yet.

    Attributes:
        future: Of its result.
        room: That its request holds.
        seconds: Of that, predicted for this item.
    """

    future: asyncio.Future[ItemResult]
    room: Room
    seconds: float

    def end(self, result: ItemResult | RheostatError) -> None:
        """Hold no room any more, and tell who waits."""
        if self.future.done():
            return
        self.room.release(self.seconds)
        if isinstance(result, ItemResult):
            self.future.set_result(result)
        else:
            self.future.set_exception(result)


class Engine:
    """Lets items in and waits for their answers; a core runs them.

    For one event loop. Every accepted item ends in a result or an error, whatever dies.

    Attributes:
        core: What runs the items.
        on_work: Called when a request comes that somebody waits for.
    """

    def __init__(
        self,
        core: Core,
        max_queue: int,
        clock: Callable[[], float],
        on_batch: Callable[[int], None] = lambda size: None,
        max_wait_s: float = inf,
    ) -> None:
        """Create an engine that is not yet started.

        Args:
            core: Runs the items.
            max_queue: Most items admitted and not yet answered.
            clock: The core's.
            on_batch: Told the size of each batch that was run, on the event loop.
            max_wait_s: No request is admitted that is predicted to wait longer.
        """
        self.core = core
        self.on_work: Callable[[], None] = lambda: None
        self._admission = Admission(max_queue, max_wait_s, clock)
        self._clock = clock
        self._on_batch = on_batch
        self._telling: asyncio.TimerHandle | None = None
        self._promises: dict[Waiting, _Promise] = {}

    @property
    def is_alive(self) -> bool:
        """Whether items are accepted and there is somebody to run them."""
        return self.core.is_alive

    @property
    def depth(self) -> int:
        """Items admitted and not yet answered."""
        return self._admission.admitted

    @property
    def backlog_s(self) -> float:
        """Predicted seconds of all that is admitted and not yet answered."""
        return self.core.pace * self._admission.seconds

    @property
    def pace(self) -> float:
        """Seconds that batches lately took for each predicted one."""
        return self.core.pace

    def delay_s(self, room: Room, seconds: float, deadline: float = inf) -> float:
        """Predict how long a request that has been admitted would wait, if it were submitted now.

        Args:
            room: Its own.
            seconds: It is predicted to take itself.
            deadline: Its own; items of its client that are due later and do not run yet go after.
        """
        flows = self._admission.flows
        ahead_s = None
        if deadline < inf:
            ahead_s = self._due_before(deadline, None if flows.is_alone(room.flow) else room.flow)
        wait_s = flows.wait_s(room.flow, seconds, self._running_s(), ahead_s, room)
        return self.core.pace * wait_s

    def _due_before(self, deadline: float, flow: Flow | None) -> float:
        """Predict what waits of a flow, or of all, and is due no later; seconds.

        In an overload this goes over hundreds of items for each request, so it looks at little.
        """
        items: Iterable[QueueItem] = (one.item for one in self._promises)
        running = [one.item for one in self.core.running if not one.claim.done()]
        if flow is not None:
            key = (flow.client, flow.priority)
            items = [item for item in items if (item.client, item.priority) == key]
            running = [item for item in running if (item.client, item.priority) == key]
        ahead_s: float = sum([item.share.more for item in items if item.due <= deadline])
        return ahead_s - sum(item.share.more for item in running if item.due <= deadline)

    def _running_s(self) -> float:
        """Return what is left of the batch that runs now, in predicted seconds."""
        return max(0.0, self.core.running_until - self._clock()) / self.core.pace

    async def start(self) -> None:
        """Start the core. Call once, on the event loop that will submit."""
        await self.core.start(self)

    async def close(self) -> None:
        """Refuse new items, finish those accepted and stop the core."""
        await self.core.close()

    @contextmanager
    def reserve(
        self,
        num_items: int,
        seconds: float = 0.0,
        flow: Flow = ANY_FLOW,
        is_timed: bool = False,
        wait_s: float = 0.0,
        ends_by_itself: bool = False,
    ) -> Iterator[Reservation]:
        """Hold room for a request, all of it or nothing, before anything is done for it.

        Args:
            num_items: Of the request.
            seconds: They are estimated to take, until they are submitted.
            flow: Whose they are.
            is_timed: Whether the request says how long it may take.
            wait_s: That it is predicted to wait before it can be submitted.
            ends_by_itself: As for `Admission.reserve`.

        Raises:
            OverloadedError: If there is not enough room, or the request would wait too long.
            ModelNotReadyError: If the engine is not running.
        """
        self.core.check_open()
        if flow.priority < BACKGROUND:
            self.on_work()
        running_s = self._running_s()
        with self._admission.reserve(
            num_items, seconds, self.core.pace, flow, running_s, is_timed, wait_s, ends_by_itself
        ) as room:
            self._note_held()
            yield Reservation(self, room)

    def _note_held(self) -> None:
        """Have other HTTP processes told soon what is inside here: they predict waits by it."""
        if self.core.is_shared and self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_TELL_EVERY_S, self._tell_held)

    def _tell_held(self) -> None:
        self._telling, held = None, self._admission.flows.own
        self.core.tell_held(held)
        if held:  # what leaves has to be told as well
            self._note_held()

    async def submit(self, items: Sequence[QueueItem], room: Room) -> list[ItemResult]:
        """As `Reservation.submit`."""
        with self._waiting(items, room) as futures:
            return await asyncio.gather(*futures)

    async def submit_until(
        self, items: Sequence[QueueItem], room: Room, until: float
    ) -> list[ItemResult | None]:
        """As `Reservation.submit_until`."""
        with self._waiting(items, room) as futures:
            left_s = max(0.0, until - self._clock())
            await asyncio.wait(futures, timeout=left_s)
            return [_in_time(future) for future in futures]

    @contextmanager
    def _waiting(
        self, items: Sequence[QueueItem], room: Room
    ) -> Iterator[list[asyncio.Future[ItemResult]]]:
        """Have items wait for their turn; those without a result at the end leave."""
        now, new_future = self._clock(), asyncio.get_running_loop().create_future
        futures: list[asyncio.Future[ItemResult]] = [new_future() for _ in items]
        waiting = [
            Waiting(item, now, future, room) for item, future in zip(items, futures, strict=True)
        ]
        promises = {
            one: _Promise(future, room, one.share.more)
            for one, future in zip(waiting, futures, strict=True)
        }
        seconds = sum(promise.seconds for promise in promises.values())
        self._admission.note_read(room, seconds)
        room.hold(seconds, len(promises))
        self._promises |= promises
        try:
            self.answered(self.core.put(waiting))
            yield futures
        finally:
            self.core.discard([one for one in waiting if self._promises.pop(one, None)])
            for future in futures:
                # A batch that still runs has to know that nobody waits, and errors are seen here.
                if not future.cancel() and not future.cancelled():
                    future.exception()

    # What the core tells, on the event loop.

    def taken(self, batch: Sequence[Waiting], size: int) -> None:
        """Tell who counts batches."""
        if size:
            self._on_batch(size)

    def answered(self, results: Sequence[tuple[Waiting, ItemResult]]) -> None:
        """Give each item what it asked for."""
        ran = sum(result.batch_size > 0 for _, result in results)
        if ran:
            self._admission.note(ran)
        for one, result in results:
            self._end(one, result)

    def failed(self, batch: Sequence[Waiting], texts: Sequence[str]) -> None:
        """Tell those of a batch that have no answer yet that it failed."""
        self._admission.note(len(batch))
        for one, text in zip(batch, texts, strict=True):
            self._end(one, InferenceError(text))

    def expired(self, items: Sequence[Waiting]) -> None:
        """Tell items that came to their turn too late."""
        for one in items:
            self._end(one, DeadlineError("the deadline passed before the request could be run"))

    def refused(self, items: Sequence[Waiting], text: str) -> None:
        """Tell items for which there is nothing to run them with."""
        for one in items:
            self._end(one, ModelNotReadyError(text))

    def others_hold(self, process: int, held: Held) -> None:
        """Let what another process has inside count in predictions and limits."""
        self._admission.flows.note_other(process, held)
        if any(priority < BACKGROUND for priority, _ in held):
            self.on_work()

    def ended(self, error: Callable[[], RheostatError]) -> None:
        """Tell whoever is left that no answer comes.

        Args:
            error: Makes what they are told, for each its own: tracebacks accumulate.
        """
        for one in list(self._promises):
            self._end(one, error())
        self._admission.flows.forget_others()  # they will tell again

    def _end(self, one: Waiting, result: ItemResult | RheostatError) -> None:
        promise = self._promises.pop(one, None)  # none if nobody waits any more
        if promise is not None:
            promise.end(result)


def _in_time(future: asyncio.Future[ItemResult]) -> ItemResult | None:
    """Return a result that is there; none if its time has passed. Any other error is raised."""
    if not future.done() or isinstance(future.exception(), DeadlineError):
        return None
    return future.result()

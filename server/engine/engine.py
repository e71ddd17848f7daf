"""The engine: an asyncio front and one worker thread for one device."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any, TypeVar

from torch import nn

from models.run.backend import Backend
from models.run.jobs import Done
from server.engine.admission import Admission
from server.engine.batch import Waiting
from server.engine.cache import ContentCache, answers_of
from server.engine.flows import ANY_FLOW, Flow, Room
from server.engine.item import ItemResult, QueueItem
from server.engine.reservation import Reservation
from server.engine.schedule import Scheduler
from server.engine.worker import FAILED, Worker
from server.engine.worker_call import WorkerCall
from server.errors import DeadlineError, InferenceError

T = TypeVar("T")

log = logging.getLogger(__name__)

_LONGEST_BATCH = 0.25  # of the longest wait: what comes next waits for the end of a batch


class Engine:
    """Runs items in batches on one thread; `server.engine.schedule` says which go first.

    The queue is shared with the worker under a lock; everything else belongs to the event loop.
    Every accepted item ends in a result or an error, whatever dies.
    """

    def __init__(
        self,
        backend: Backend,
        max_batch_size: int,
        max_batch_tokens: int,
        max_queue: int,
        clock: Callable[[], float],
        on_batch: Callable[[int], None] = lambda size: None,
        max_wait_s: float = inf,
        cache: ContentCache | None = None,
    ) -> None:
        """Create an engine that is not yet started.

        Args:
            backend: Called from the worker thread only.
            max_batch_size: Most items in one call of the back end.
            max_batch_tokens: Most tokens in one call, for inputs that have a length.
            max_queue: Most items admitted and not yet answered.
            clock: Returns seconds; only differences matter. Called from both threads.
            on_batch: Told the size of each batch that was run, on the event loop.
            max_wait_s: No request is admitted that is predicted to wait longer.
            cache: Of answers; None to compute every one.
        """
        self._cache = cache or ContentCache(0)
        self.backend = backend
        self._admission = Admission(max_queue, max_wait_s, clock)
        self._clock = clock
        self._on_batch = on_batch
        queue: Scheduler[Waiting] = Scheduler(max_batch_size, max_batch_tokens)
        self._worker = Worker(backend, queue, _LONGEST_BATCH * max_wait_s, clock, self)
        self._unanswered: dict[asyncio.Future[ItemResult], QueueItem] = {}
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Event

    @property
    def is_alive(self) -> bool:
        """Whether items are accepted and the worker is there to run them."""
        return self._worker.is_alive

    @property
    def depth(self) -> int:
        """Items admitted and not yet answered."""
        return self._admission.admitted

    @property
    def backlog_s(self) -> float:
        """Predicted seconds of all that is admitted and not yet answered."""
        return self._worker.pace.value * self._admission.seconds

    @property
    def pace(self) -> float:
        """Seconds that batches lately took for each predicted one."""
        return self._worker.pace.value

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
        return self._worker.pace.value * wait_s

    def _due_before(self, deadline: float, flow: Flow | None) -> float:
        """Predict what waits of a flow, or of all, and is due no later; seconds.

        In an overload this goes over hundreds of items for each request, so it looks at little.
        """
        items: Iterable[QueueItem] = self._unanswered.values()
        running = [one.item for one in self._worker.running if not one.future.done()]
        if flow is not None:
            key = (flow.client, flow.priority)
            items = [item for item in items if (item.client, item.priority) == key]
            running = [item for item in running if (item.client, item.priority) == key]
        ahead_s: float = sum([item.share.more for item in items if item.deadline <= deadline])
        return ahead_s - sum(item.share.more for item in running if item.deadline <= deadline)

    def _running_s(self) -> float:
        """Return what is left of the batch that runs now, in predicted seconds."""
        if all(one.future.done() for one in self._worker.running):
            return 0.0
        return max(0.0, self._worker.running_until - self._clock()) / self._worker.pace.value

    def start(self) -> None:
        """Start the worker. Call once, on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._worker.start(self._loop)

    async def close(self) -> None:
        """Refuse new items, finish those accepted and stop the worker."""
        if self._worker.close():
            await self._ended.wait()
            self._worker.join()

    async def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns on the worker thread, between two batches.

        For what must not happen while steps run; batches wait for it.

        Raises:
            ModelNotReadyError: If the engine is not running.
            InferenceError: If the worker ends first.
            Exception: Whatever the function raises.
        """
        call = WorkerCall(function, self._loop.create_future())
        self._worker.call(call)
        result: T = await call.future
        return result

    async def forget(self, model: nn.Module) -> None:
        """Give up all that is kept for a model that runs no more; errors as for `call`."""
        await self.call(lambda: self.backend.forget(model))
        self._cache.forget(model)

    @contextmanager
    def reserve(
        self,
        num_items: int,
        seconds: float = 0.0,
        flow: Flow = ANY_FLOW,
        is_timed: bool = False,
        wait_s: float = 0.0,
    ) -> Iterator[Reservation]:
        """Hold room for a request, all of it or nothing, before anything is done for it.

        Args:
            num_items: Of the request.
            seconds: They are estimated to take, until they are submitted.
            flow: Whose they are.
            is_timed: Whether the request says how long it may take.
            wait_s: That it is predicted to wait before it can be submitted.

        Raises:
            OverloadedError: If there is not enough room, or the request would wait too long.
            ModelNotReadyError: If the engine is not running.
        """
        self._worker.check_open()
        running_s = self._running_s()
        with self._admission.reserve(
            num_items, seconds, self._worker.pace.value, flow, running_s, is_timed, wait_s
        ) as room:
            yield Reservation(self._submit, room)

    async def _submit(self, items: Sequence[QueueItem], room: Room) -> list[ItemResult]:
        now = self._clock()
        everything = [
            Waiting(
                item,
                now,
                self._loop.create_future(),
                room,
                item.share.more,
                self._cache.recall(item),
                item.prepared.keep | self._cache.wants(item),
            )
            for item in items
        ]
        waiting = [one for one in everything if not self._recall(one)]
        seconds = sum(one.seconds for one in waiting)
        self._admission.note_read(room, seconds)
        room.hold(seconds, len(waiting))
        self._worker.put(waiting)
        futures = {one.future: one.item for one in waiting}
        self._unanswered |= futures
        try:
            return await asyncio.gather(*(one.future for one in everything))
        finally:
            for future in futures:
                del self._unanswered[future]
            self._worker.discard(waiting)

    def _recall(self, one: Waiting) -> bool:
        """Answer an item from the cache, if it can be."""
        if one.item.prepared.keep.difference(one.cached):
            return False
        answers = answers_of(one.item, one.cached)
        if answers is None:
            return False
        kept = {identity: one.cached[identity] for identity in one.item.prepared.keep}
        one.future.set_result(ItemResult(answers, kept, 0.0, 0.0, 0, shared=1.0))
        return True

    # The events of the worker, on the event loop.

    def taken(self, size: int) -> None:
        """Tell who counts batches."""
        self._on_batch(size)

    def answered(
        self,
        answered: Sequence[tuple[Waiting, Done]],
        started: float,
        run_s: float,
        batch_size: int,
    ) -> None:
        """Give each item what it asked for. On the event loop."""
        self._admission.note(len(answered))
        for one, done in answered:
            one.release()
            self._cache.put(one.item, done)
            if not one.future.done():
                queue_s = started - one.since
                one.future.set_result(one.result(done, queue_s, run_s, batch_size))

    def failed(self, batch: Sequence[Waiting], texts: Sequence[str] = ()) -> None:
        """Tell those of a batch that have no answer yet that it failed. On the event loop."""
        self._admission.note(len(batch))
        for one, text in zip(batch, texts or [FAILED] * len(batch), strict=True):
            if not one.future.done():
                one.release()
            _set_error([one.future], text)

    def expired(self, expired: Sequence[Waiting]) -> None:
        """Tell items that came to their turn too late. On the event loop."""
        for one in expired:
            if not one.future.done():
                one.release()
                text = "the deadline passed before the request could be run"
                one.future.set_exception(DeadlineError(text))

    def ended(self) -> None:
        """Tell whoever is left that no answer comes. On the event loop, after all others."""
        text = "the worker stopped before it could answer"
        _set_error([*self._unanswered, *(call.future for call in self._worker.waiting_calls)], text)
        self._ended.set()


def _set_error(futures: Sequence[asyncio.Future[Any]], text: str) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(InferenceError(text))  # each its own: tracebacks accumulate

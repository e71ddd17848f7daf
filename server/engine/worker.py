"""The engine's worker: one thread that runs batches on one device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from torch import nn

from models.core import Step
from models.run.backend import Backend
from models.run.execution import NotFiniteError, StoppedError
from models.run.jobs import Done
from search.timing.profile import Workload
from server.engine.batch import Waiting
from server.engine.item import PreparedPlan
from server.engine.predict import InTime, Pace, batch_seconds
from server.engine.schedule import Scheduler
from server.engine.worker_call import WorkerCall
from server.errors import InferenceError, not_running

T = TypeVar("T")

log = logging.getLogger(__name__)

FAILED = "the model failed on this request"


class WorkerEvents(Protocol):
    """What a worker tells, on its thread. None of these may raise."""

    def taken(self, batch: Sequence[Waiting], until: float) -> None:
        """A batch has been taken, and is predicted to end at a time on the engine's clock."""

    def done(
        self, done: Sequence[tuple[Waiting, Done]], started: float, run_s: float, size: int
    ) -> None:
        """Some of a batch of a size are done, so long after it was started."""

    def failed(self, batch: Sequence[Waiting], texts: Sequence[str]) -> None:
        """Some have no answer; the texts say why, one for each."""

    def expired(self, items: Sequence[Waiting]) -> None:
        """Some came to their turn after their deadline."""

    def learnt(self, prepared: PreparedPlan) -> None:
        """The profile of a plan has taken in how long a batch took."""

    def ended(self) -> None:
        """The worker runs nothing any more."""


class Worker:
    """Runs what waits in batches; `server.engine.schedule` says which go first.

    The queue is shared with those who put something into it under a lock.

    Attributes:
        backend: Called from the thread only.
        pace: How long batches take, over how long they were predicted to take.
        running: What runs now.
        running_until: When that is predicted to end, on the clock.
    """

    def __init__(
        self,
        backend: Backend,
        queue: Scheduler[Waiting],
        longest_s: float,
        clock: Callable[[], float],
        events: WorkerEvents,
    ) -> None:
        """Create a worker that is not yet started.

        Args:
            backend: That computes.
            queue: Of what waits, empty.
            longest_s: That a batch of several may be predicted to take.
            clock: Returns seconds.
            events: Told of all that happens, on the worker's thread.
        """
        self.backend = backend
        self.pace = Pace()
        self.running: Sequence[Waiting] = ()
        self.running_until = 0.0
        self._queue = queue
        self._longest_s = longest_s
        self._clock = clock
        self._events = events
        self._calls: list[WorkerCall] = []
        self._changed = threading.Condition()
        self._is_open = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether what is put in is taken out."""
        return self._is_open and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread. Call once."""
        self._is_open = True
        self._thread.start()

    def close(self) -> bool:
        """Take nothing more; what waits still runs. Returns whether there is an end to wait for."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        return self._thread.ident is not None

    def join(self) -> None:
        """Return once the thread has ended."""
        self._thread.join()

    def put(self, waiting: Iterable[Waiting]) -> None:
        """Let items wait for their turn; ModelNotReadyError if nobody would run them."""
        with self._changed:
            self.check_open()
            for one in waiting:
                self._queue.push(one, one.item.ticket, one.request)
            self._changed.notify()

    def discard(self, waiting: Iterable[Waiting]) -> None:
        """Take items out that still wait."""
        with self._changed:
            for one in waiting:
                self._queue.discard(one)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run something between two batches; ModelNotReadyError if nobody would."""
        call = WorkerCall(function)
        with self._changed:
            self.check_open()
            self._calls.append(call)
            self._changed.notify()
        return call.future

    def check_open(self) -> None:
        """Raise ModelNotReadyError if nobody would run what is put in."""
        if not self.is_alive:
            raise not_running()

    # What follows runs on the thread.

    def _work(self) -> None:
        try:
            self._run_batches()
        except BaseException:  # the thread's edge: log, and leave nobody waiting
            log.exception("the worker died")
        finally:
            with self._changed:
                self._is_open = False
                calls, self._calls = self._calls, []
            for call in calls:
                call.fail(InferenceError("the worker stopped before it could answer"))
            self._events.ended()

    def _run_batches(self) -> None:
        """Schedule, run, answer each item when its own steps are done; until closed and empty."""
        while (batch := self._next_batch()) is not None:
            if not batch:
                continue  # all that waited had expired, or there was something else to do
            started = self._clock()
            self.running_until = started + self.pace.value * batch_seconds(batch)
            self.running = batch
            self._events.taken(batch, self.running_until)
            calls: list[tuple[Sequence[Step], Workload, float]] = []
            try:
                for done in self._execute(batch, calls):
                    run_s = self._clock() - started
                    answered = [(batch[i], one) for i, one in done if isinstance(one, Done)]
                    failed = {i: one for i, one in done if isinstance(one, Exception)}
                    # Of many tasks most leaves complete no item, and to wake a loop costs time.
                    if answered:
                        self._events.done(answered, started, run_s, len(batch))
                    if failed:
                        self._events.failed([batch[i] for i in failed], _told(failed))
            except StoppedError:
                pass  # nobody of the batch waits any more
            except Exception:  # the loop's edge: the batch fails, the worker goes on
                log.exception("a batch of %d failed", len(batch))
                self._events.failed(batch, [FAILED] * len(batch))
            else:
                self.pace.note(batch_seconds(batch), self._clock() - started)
            self.running = ()
            if (profile := batch[0].item.prepared.profile) is not None:
                for call in calls:  # only now, when nobody waits for it
                    profile.observe(*call)
                owner = batch[0].item.prepared.owner
                for built in self.backend.take_built(owner) if isinstance(owner, nn.Module) else ():
                    length = built.num_tokens / built.rows
                    profile.replace(built.steps, Workload(built.rows, length), built.seconds)
                self._events.learnt(batch[0].item.prepared)

    def _next_batch(self) -> list[Waiting] | None:
        """Wait for items; None once closed and empty."""
        with self._changed:
            while self._is_open and not self._queue and not self._calls:
                self._changed.wait()
            calls, self._calls = self._calls, []
            if not self._queue and not calls:
                return None
        for call in calls:
            call.run()
        with self._changed:
            now = self._clock()
            in_time = InTime(now, self.pace.value, self._longest_s)
            batch, expired = self._queue.next_batch(now, in_time)
        if expired:
            self._events.expired(expired)
        return batch

    def _execute(
        self, batch: Sequence[Waiting], calls: list[tuple[Sequence[Step], Workload, float]]
    ) -> Iterator[list[tuple[int, Done | Exception]]]:
        """Run a batch, and note each call and its seconds."""
        collate = batch[0].item.prepared.inputs.collate
        is_forsaken = lambda: all(one.claim.done() for one in batch)  # noqa: E731

        def observe(steps: Sequence[Step], rows: int, num_tokens: int, seconds: float) -> None:
            calls.append((steps, Workload(rows, num_tokens / rows), seconds))

        jobs = [one.job for one in batch]
        return self.backend.execute(jobs, collate, is_forsaken, observe, self._clock)


def _told(failed: Mapping[int, Exception]) -> list[str]:
    """Log why items of a batch failed, and return what each client is told."""
    for error in set(failed.values()):
        known = isinstance(error, NotFiniteError)
        log.error("%d of a batch failed: %s", len(failed), error, exc_info=None if known else error)
    return [
        f"{FAILED}: {error}" if isinstance(error, NotFiniteError) else FAILED
        for error in failed.values()
    ]

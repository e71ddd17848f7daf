"""What runs items: a worker, a cache and the models, in this process or in another one.

The front (`server.engine.engine.Engine`) admits requests and waits for their answers. It sees no
thread, no weights and no back end: what it asks of a core, another process can do as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import nn

from models.run.backend import Backend
from models.run.jobs import Done
from models.variants import Choices, added_bytes, build
from search.timing.profile import LatencyProfile
from server.engine.batch import Waiting
from server.engine.cache import CacheStats, ContentCache, answers_of
from server.engine.item import ItemResult, PreparedPlan
from server.engine.schedule import Scheduler
from server.engine.worker import Worker
from server.errors import InferenceError, RheostatError
from server.served import Served

T = TypeVar("T")

_LONGEST_BATCH = 0.25  # of the longest wait: what comes next waits for the end of a batch


class Events(Protocol):
    """What a core tells, on the event loop."""

    def taken(self, batch: Sequence[Waiting], size: int) -> None:
        """Items of this process have been taken for a batch; its size, 0 if another counts it."""

    def answered(self, results: Sequence[tuple[Waiting, ItemResult]]) -> None:
        """Some items are done."""

    def failed(self, batch: Sequence[Waiting], texts: Sequence[str]) -> None:
        """Some have no answer; the texts say why, one for each."""

    def expired(self, items: Sequence[Waiting]) -> None:
        """Some came to their turn after their deadline."""

    def ended(self, error: Callable[[], RheostatError]) -> None:
        """Nothing that was put in before is answered any more; why, for each that waits."""


class Stats(NamedTuple):
    """Levels and counters of what the models run with.

    Attributes:
        backend: Of the back end, if it counts anything.
        cache: Of the cache.
    """

    backend: NamedTuple | None
    cache: CacheStats


class Core(Protocol):
    """Runs items in batches on one device. For one event loop.

    Attributes:
        holds_weights: Whether plans of models in this process can be run. If not, models are read
            without their weights.
        pace: Seconds that batches lately took for each predicted one.
        running: What runs now, as far as it is of this process.
        running_until: When the batch that runs now is predicted to end, on the clock; 0 if there
            is none.
    """

    holds_weights: bool

    @property
    def pace(self) -> float: ...  # noqa: D102

    @property
    def running(self) -> Sequence[Waiting]: ...  # noqa: D102

    @property
    def running_until(self) -> float: ...  # noqa: D102

    @property
    def is_alive(self) -> bool:
        """Whether items are accepted and there is somebody to run them."""

    @property
    def backend_name(self) -> str:
        """What receipts call the back end."""

    @property
    def stats(self) -> Stats:
        """Levels and counters."""

    @property
    def levels(self) -> frozenset[str]:
        """Fields of the back end's stats that may fall."""

    async def start(self, events: Events) -> None:
        """Begin; call once. Raises RheostatError if it cannot."""

    async def close(self) -> None:
        """Refuse new items, finish those accepted and stop."""

    def check_open(self) -> None:
        """Raise ModelNotReadyError if nobody would run what is put in."""

    def put(self, waiting: Sequence[Waiting]) -> list[tuple[Waiting, ItemResult]]:
        """Let items wait for their turn; return those that the cache answers at once.

        Raises:
            ModelNotReadyError: If nobody would run them.
        """

    def discard(self, waiting: Sequence[Waiting]) -> None:
        """Take items out that still wait."""

    async def prepare(self, served: Served) -> LatencyProfile:
        """Make a model ready to run, and return how long its steps take."""

    async def expect_whole(self, served: Served) -> None:
        """Be fast first at what requests without a budget run."""

    async def build(self, served: Served, choices: Choices) -> tuple[Any, int]:
        """Build a variant; return what makes plans of it, and the bytes of its own weights."""

    async def drop(self, served: Served, choices: Choices) -> None:
        """Give up a variant."""

    async def forget_model(self, served: Served) -> None:
        """Give up all that is kept for a model that runs no more."""


class WorkerCore:
    """The worker and the cache of one device, for whoever calls from any thread.

    Attributes:
        backend: Called from the worker's thread only.
        cache: Of answers.
        worker: Runs the batches.
    """

    def __init__(
        self,
        backend: Backend,
        max_batch_size: int,
        max_batch_tokens: int,
        clock: Callable[[], float],
        max_wait_s: float = inf,
        cache: ContentCache | None = None,
    ) -> None:
        """Create one that is not yet started.

        Args:
            backend: That computes.
            max_batch_size: Most items in one call of the back end.
            max_batch_tokens: Most tokens in one call, for inputs that have a length.
            clock: Returns seconds; only differences matter. Called from any thread.
            max_wait_s: The longest wait of a request: what bounds one batch.
            cache: Of answers; None to compute every one.
        """
        self.backend = backend
        self.cache = cache or ContentCache(0)
        queue: Scheduler[Waiting] = Scheduler(max_batch_size, max_batch_tokens)
        self.worker = Worker(backend, queue, _LONGEST_BATCH * max_wait_s, clock, self)
        self._tell: Events

    def put(self, waiting: Sequence[Waiting]) -> list[tuple[Waiting, ItemResult]]:
        """As `Core.put`."""
        self.worker.check_open()
        known, rest = [], []
        for one in waiting:
            one.cached = self.cache.recall(one.item)
            one.keep = one.item.prepared.keep | self.cache.wants(one.item)
            result = _recalled(one)
            if result is None:
                rest.append(one)
            else:
                known.append((one, result))
        self.worker.put(rest)
        return known

    def load(self, served: Served, measure: Callable[[Served], LatencyProfile]) -> LatencyProfile:
        """Place a model's weights, and return its profile; on the worker's thread."""
        self.backend.prepare(served.model)
        return measure(served)

    def expect(self, served: Served) -> None:
        """As `Core.expect_whole`; on the worker's thread."""
        subnet = served.elastic.space.largest
        prepared = served.prepare(subnet, served.elastic.tasks)
        item = served.inputs.example(names=served.names(subnet))
        self.backend.expect(prepared.plan, served.inputs.batch([item]))

    def forget(self, model: nn.Module) -> None:
        """Give up all that is kept for a model; on the worker's thread."""
        self.backend.forget(model)
        self.cache.forget(model)

    def post(self, call: Callable[..., None], *args: object) -> None:
        """Call a method of `Events`; another class may do so elsewhere."""
        call(*args)

    # The events of the worker, on its thread.

    def taken(self, batch: Sequence[Waiting], until: float) -> None:
        """Tell who waits."""
        self.post(self._tell.taken, batch, len(batch))

    def done(
        self, done: Sequence[tuple[Waiting, Done]], started: float, run_s: float, size: int
    ) -> None:
        """Keep what is worth keeping, and give each item what it asked for."""
        results = []
        for one, own in done:
            self.cache.put(one.item, own)
            results.append((one, one.result(own, started - one.since, run_s, size)))
        self.post(self._tell.answered, results)

    def failed(self, batch: Sequence[Waiting], texts: Sequence[str]) -> None:
        """Tell who waits."""
        self.post(self._tell.failed, batch, texts)

    def expired(self, items: Sequence[Waiting]) -> None:
        """Tell who waits."""
        self.post(self._tell.expired, items)

    def learnt(self, prepared: PreparedPlan) -> None:
        """Do nothing: whoever predicts in this process reads the same profile."""

    def ended(self) -> None:
        """Tell who waits."""
        self.post(self._tell.ended, _stopped)


def _stopped() -> RheostatError:
    return InferenceError("the worker stopped before it could answer")


def _recalled(one: Waiting) -> ItemResult | None:
    """Return the answer of an item, if the cache has had all of it."""
    if one.item.prepared.keep.difference(one.cached):
        return None
    answers = answers_of(one.item, one.cached)
    if answers is None:
        return None
    kept = {identity: one.cached[identity] for identity in one.item.prepared.keep}
    return ItemResult(answers, kept, 0.0, 0.0, 0, shared=1.0)


class LocalCore(WorkerCore):
    """A core whose worker is a thread of this process."""

    holds_weights = True

    def __init__(
        self,
        backend: Backend,
        max_batch_size: int,
        max_batch_tokens: int,
        clock: Callable[[], float],
        max_wait_s: float = inf,
        cache: ContentCache | None = None,
        measure: Callable[[Served], LatencyProfile] | None = None,
    ) -> None:
        """Create a core that is not yet started.

        Args:
            backend: As for `WorkerCore`; closed with the core.
            max_batch_size: As for `WorkerCore`.
            max_batch_tokens: Likewise.
            clock: Likewise.
            max_wait_s: Likewise.
            cache: Likewise.
            measure: Returns a model's profile; called between batches. None if no model is added.
        """
        super().__init__(backend, max_batch_size, max_batch_tokens, clock, max_wait_s, cache)
        self._measure = measure
        self._variants: dict[tuple[int, Choices], nn.Module] = {}
        self._loop: asyncio.AbstractEventLoop
        self._ended: asyncio.Event

    @property
    def pace(self) -> float:
        """Seconds that batches lately took for each predicted one."""
        return self.worker.pace.value

    @property
    def running(self) -> Sequence[Waiting]:
        """What runs now."""
        return self.worker.running

    @property
    def running_until(self) -> float:
        """When that is predicted to end, on the clock; 0 if nobody waits for it any more."""
        is_over = all(one.claim.done() for one in self.worker.running)
        return 0.0 if is_over else self.worker.running_until

    @property
    def is_alive(self) -> bool:
        """Whether items are accepted and the worker is there to run them."""
        return self.worker.is_alive

    @property
    def backend_name(self) -> str:
        """What receipts call the back end."""
        return self.backend.name

    @property
    def stats(self) -> Stats:
        """Levels and counters at this moment."""
        return Stats(self.backend.stats, self.cache.stats)

    @property
    def levels(self) -> frozenset[str]:
        """Fields of the back end's stats that may fall."""
        return self.backend.levels

    async def start(self, events: Events) -> None:
        """Start the worker. Call once, on the event loop that will put items in."""
        self._loop, self._ended, self._tell = asyncio.get_running_loop(), asyncio.Event(), events
        self.worker.start()

    async def close(self) -> None:
        """Refuse new items, finish those accepted, stop the worker and close the back end."""
        if self.worker.close():
            await self._ended.wait()
            self.worker.join()
        self.backend.close()

    def check_open(self) -> None:
        """Raise ModelNotReadyError if nobody would run what is put in."""
        self.worker.check_open()

    def discard(self, waiting: Sequence[Waiting]) -> None:
        """Take items out that still wait."""
        self.worker.discard(waiting)

    async def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns on the worker's thread, between two batches.

        Raises:
            ModelNotReadyError: If the worker is not running.
            InferenceError: If it ends first.
            Exception: Whatever the function raises.
        """
        return await asyncio.wrap_future(self.worker.call(function))

    async def prepare(self, served: Served) -> LatencyProfile:
        """As `Core.prepare`; errors as for `call`."""
        assert self._measure is not None
        measure = self._measure
        return await self.call(lambda: self.load(served, measure))

    async def expect_whole(self, served: Served) -> None:
        """As `Core.expect_whole`; errors as for `call`."""
        await self.call(lambda: self.expect(served))

    async def build(self, served: Served, choices: Choices) -> tuple[Any, int]:
        """As `Core.build`."""
        model = await asyncio.to_thread(built, served, choices)
        await self.call(lambda: self.backend.prepare(model))
        self._variants[id(served), choices] = model
        return model, added_bytes(model, served.model)

    async def drop(self, served: Served, choices: Choices) -> None:
        """As `Core.drop`."""
        model = self._variants.pop((id(served), choices))
        await self.call(lambda: self.forget(model))

    async def forget_model(self, served: Served) -> None:
        """As `Core.forget_model`."""
        await self.call(lambda: self.forget(served.model))

    def post(self, call: Callable[..., None], *args: object) -> None:
        """Have the event loop call it; a loop that is gone took everybody who waited with it."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def ended(self) -> None:
        """Tell who waits, then whoever closes this."""
        super().ended()
        self.post(self._ended.set)


def built(served: Served, choices: Choices) -> nn.Module:
    """Build a variant of a model.

    Raises:
        TypeError: If it is no module.
        Exception: Whatever the model raises.
    """
    model = build(served.elastic, choices)
    if not isinstance(model, nn.Module):
        raise TypeError(f"a variant of {served.name} is no module")
    return model

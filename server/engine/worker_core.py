"""The worker and the cache of one device, whoever asks and wherever answers go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from torch import nn

from models.elastic import Elastic
from models.run.backend import Backend
from models.run.jobs import Done
from models.space import Subnet
from models.variants import Choices, build
from search.timing.profile import LatencyProfile
from server.engine.batch import Waiting
from server.engine.cache import ContentCache, answers_of
from server.engine.core import Stats
from server.engine.item import ItemResult, PreparedPlan
from server.engine.schedule import Scheduler
from server.engine.worker import Worker
from server.served import Served

_LONGEST_BATCH = 0.25  # of the longest wait: what comes next waits for the end of a batch


@dataclass(eq=False)
class WorkerCore(ABC):
    """The worker and the cache of one device, for whoever calls from any thread.

    Attributes:
        backend: Called from the worker's thread only.
        max_batch_size: Most items in one call of the back end.
        max_batch_tokens: Most tokens in one call, for inputs that have a length.
        clock: Returns seconds; only differences matter. Called from any thread.
        max_wait_s: The longest wait of a request: what bounds one batch.
        cache: Of answers; by default none is kept.
        measure: Returns a model's profile; called between batches. None if no model is added.
        worker: Runs the batches.
    """

    backend: Backend
    max_batch_size: int
    max_batch_tokens: int
    clock: Callable[[], float]
    max_wait_s: float = inf
    cache: ContentCache = field(default_factory=lambda: ContentCache(0))
    measure: Callable[[Served], LatencyProfile] | None = None
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        """Make a worker that is not yet started."""
        queue: Scheduler[Waiting] = Scheduler(self.max_batch_size, self.max_batch_tokens)
        longest_s = _LONGEST_BATCH * self.max_wait_s
        self.worker = Worker(self.backend, queue, longest_s, self.clock, self)

    @property
    def stats(self) -> Stats:
        """Levels and counters at this moment."""
        return Stats(self.backend.stats, self.cache.stats)

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

    def load(self, served: Served) -> LatencyProfile:
        """Place a model's weights, and return its profile; on the worker's thread."""
        assert self.measure is not None
        self.backend.prepare(served.model)
        return self.measure(served)

    def expect_plan(self, served: Served, model: Elastic, subnet: Subnet, build: bool) -> None:
        """As `Core.expect`, of a variant; on the worker's thread."""
        prepared = served.prepare_with(model, subnet, list(served.elastic.tasks), raw=False)
        item = served.inputs.example(names=served.names(subnet))
        self.backend.expect(prepared.plan, served.inputs.batch([item]), build)

    def forget(self, model: nn.Module, beside: nn.Module | None = None) -> None:
        """Give up what is kept for a model, less what one that stays shares; worker's thread."""
        self.backend.forget(model, beside)
        self.cache.forget(model)

    @abstractmethod
    def deliver(self, results: Sequence[tuple[Waiting, ItemResult]]) -> None:
        """Give each item what it asked for; on the worker's thread."""

    # The events of the worker, on its thread.

    @abstractmethod
    def taken(self, batch: Sequence[Waiting], until: float) -> None: ...  # noqa: D102

    def done(
        self, done: Sequence[tuple[Waiting, Done]], started: float, run_s: float, size: int
    ) -> None:
        """Keep what is worth keeping, and deliver."""
        results = []
        for one, own in done:
            self.cache.put(one.item, own)
            results.append((one, one.result(own, started - one.since, run_s, size)))
        self.deliver(results)

    @abstractmethod
    def failed(self, batch: Sequence[Waiting], texts: Sequence[str]) -> None: ...  # noqa: D102

    @abstractmethod
    def expired(self, items: Sequence[Waiting]) -> None: ...  # noqa: D102

    @abstractmethod
    def learnt(self, prepared: PreparedPlan) -> None: ...  # noqa: D102

    @abstractmethod
    def ended(self) -> None: ...  # noqa: D102


def _recalled(one: Waiting) -> ItemResult | None:
    """Return the answer of an item, if the cache has had all of it."""
    if one.item.prepared.keep.difference(one.cached):
        return None
    answers = answers_of(one.item, one.cached)
    if answers is None:
        return None
    kept = {identity: one.cached[identity] for identity in one.item.prepared.keep}
    return ItemResult(answers, kept, 0.0, 0.0, 0, shared=1.0)


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

"""What waits in the engine, and how it becomes a job of a back end."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from models.nn.ragged import Value
from models.run.jobs import Done, Job
from server.engine.item import ItemResult, QueueItem, shared_part
from server.engine.predict import Share


class Claim(Protocol):
    """Who waits for an answer."""

    def done(self) -> bool:
        """Whether there is one, or nobody waits any more. Called from any thread."""


@dataclass(eq=False, slots=True)
class Waiting:
    """An item and who waits for it.

    Attributes:
        item: To be done.
        since: When it was submitted, on the engine's clock.
        claim: On its result.
        request: Equal for the items of one request.
        cached: Values of it that the cache had, by identity.
        keep: Identities of inner values that are kept for it or for the cache.
    """

    item: QueueItem
    since: float
    claim: Claim
    request: Hashable = None
    cached: Mapping[bytes, Value] = field(default_factory=dict)
    keep: frozenset[bytes] = frozenset()

    @property
    def job(self) -> Job:
        """What the back end is asked."""
        item = self.item
        known = {**item.known, **self.cached} if self.cached else item.known
        return Job(item.prepared.plan, item.inputs, known, self.keep.difference(known))

    def result(self, done: Done, queue_s: float, run_s: float, batch_size: int) -> ItemResult:
        """Return what is told of it once it is done."""
        macs = self.item.prepared.macs
        kept = {i: value for i, value in done.kept.items() if i in self.item.prepared.keep}
        for identity in self.item.prepared.keep & self.cached.keys():
            kept[identity] = self.cached[identity]
        shared = shared_part(done.macs, macs)
        return ItemResult(done.outputs, kept, queue_s, run_s, batch_size, done.macs, shared)

    @property
    def share(self) -> Share:
        """Predicted seconds."""
        return self.item.share

    @property
    def deadline(self) -> float:
        """When an answer is of no use any more."""
        return self.item.deadline

    @property
    def longest_s(self) -> float:
        """What a batch with it may be predicted to take."""
        return self.item.longest_s

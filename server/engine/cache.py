"""Values kept across batches: the same function of the same contents is not computed again.

Kept are answers, and of models with several inputs the inner values at which inputs meet: the
context of many candidates, the image of many texts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor

from models.nn.ragged import Ragged, Value
from models.run.jobs import Done
from server.engine.item import QueueItem

Key: TypeAlias = tuple[int, bytes, tuple[Hashable, ...]]
"""Of a value: the model's identity, the value's, and the contents of the inputs it depends on."""

_ENTRY_BYTES = 800  # of keys and containers, measured roughly


class CacheStats(NamedTuple):
    """What a cache has done and holds.

    Attributes:
        hits: Items answered from it.
        misses: Items that it could have answered.
        entries: Values held.
        bytes: What those hold.
    """

    hits: int = 0
    misses: int = 0
    entries: int = 0
    bytes: int = 0


class ContentCache:
    """Values by model, identity and content, those unused for longest given up first.

    Contents are told apart by a 128-bit digest. For any threads.
    """

    def __init__(self, max_bytes: int) -> None:
        """Create an empty cache; with 0 bytes it does nothing."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    @property
    def stats(self) -> CacheStats:
        """Counters and levels at this moment."""
        return CacheStats(self._hits, self._misses, len(self._entries), self._bytes)

    def recall(self, item: QueueItem) -> dict[bytes, Value]:
        """Return the values of an item that are here, by identity."""
        prepared = item.prepared
        if not self._max_bytes or prepared.known:  # what goes on from kept values is not looked up
            return {}
        with self._lock:
            return self._recall(item)

    def _recall(self, item: QueueItem) -> dict[bytes, Value]:
        prepared, found = item.prepared, dict[bytes, Value]()
        for step in (*prepared.plan.answers.values(), *prepared.plan.joints):
            key = self._key(item, step.identity, step.inputs)
            if (value := self._entries.get(key)) is not None:
                self._entries.move_to_end(key)
                found[step.identity] = value
        is_hit = all(step.identity in found for step in prepared.plan.answers.values())
        self._hits += is_hit
        self._misses += not is_hit
        return found

    def wants(self, item: QueueItem) -> frozenset[bytes]:
        """Return the identities of inner values of an item that are worth keeping."""
        if not self._max_bytes or item.prepared.known:
            return frozenset()
        return frozenset(step.identity for step in item.prepared.plan.joints)

    def put(self, item: QueueItem, done: Done) -> None:
        """Keep what an item gave."""
        if not self._max_bytes or item.prepared.known:
            return
        plan = item.prepared.plan
        with self._lock:
            for task, step in plan.answers.items():
                self._put(self._key(item, step.identity, step.inputs), done.outputs[task])
            for step in plan.joints:
                if step.identity in done.kept:
                    key = self._key(item, step.identity, step.inputs)
                    self._put(key, done.kept[step.identity])

    def forget(self, model: object) -> None:
        """Give up a model's values: another one may get its identity."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == id(model)]:
                self._bytes -= _size(self._entries.pop(key))

    def _key(self, item: QueueItem, identity: bytes, inputs: tuple[str, ...]) -> Key:
        # The plan's functions are the model's own: other weights are another model.
        contents = item.contents
        return (id(item.prepared.owner), identity, tuple(contents[name] for name in inputs))

    def _put(self, key: Key, value: Value) -> None:
        """Keep a value, unless it alone exceeds the cache."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return
        # Rows are views: without a copy each would keep its whole batch alive.
        kept = value.replace(value.values.clone()) if isinstance(value, Ragged) else value.clone()
        size = _size(kept)
        if size > self._max_bytes:
            return
        self._entries[key] = kept
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, given_up = self._entries.popitem(last=False)
            self._bytes -= _size(given_up)


def _size(value: Value) -> int:
    tensor: Tensor = value.values if isinstance(value, Ragged) else value
    return _ENTRY_BYTES + tensor.nbytes


def answers_of(item: QueueItem, known: Mapping[bytes, Value]) -> dict[str, Tensor] | None:
    """Return the answers of an item by task, if all of them are known."""
    found: dict[str, Tensor] = {}
    for task, step in item.prepared.plan.answers.items():
        value = known.get(step.identity)
        if not isinstance(value, Tensor):
            return None
        found[task] = value
    return found

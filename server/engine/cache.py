"""Answers kept across batches: the same input through the same plan is not computed again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor

from models.core import KeyPath
from server.engine.work import Work

Key: TypeAlias = tuple[Hashable, ...]
"""Of an answer; the first part tells the model."""

_ENTRY_BYTES = 800  # of keys and containers, measured roughly


class CacheStats(NamedTuple):
    """What a cache has done and holds.

    Attributes:
        hits: Works answered from it.
        misses: Works that it could have answered.
        entries: Answers held.
        bytes: What those hold.
    """

    hits: int = 0
    misses: int = 0
    entries: int = 0
    bytes: int = 0


class ContentCache:
    """Answers by model, plan and content, those unused for longest given up first.

    Contents are told apart by a 128-bit digest. Used from the event loop only.
    """

    def __init__(self, max_bytes: int) -> None:
        """Create an empty cache; with 0 bytes it does nothing."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, dict[KeyPath, Tensor]] = OrderedDict()
        self._bytes = self._hits = self._misses = 0

    @property
    def stats(self) -> CacheStats:
        """Counters and levels at this moment."""
        return CacheStats(self._hits, self._misses, len(self._entries), self._bytes)

    def key(self, work: Work) -> Key | None:
        """Return what answers are kept by; None for a work that is never kept."""
        prepared = work.prepared
        if not self._max_bytes or prepared.keep or prepared.resume:
            return None
        if not isinstance(work.item, Tensor):
            return None
        item = work.item.contiguous()
        digest = hashlib.blake2b(item.numpy().tobytes(), digest_size=16).digest()
        # The plan's functions are the model's own: other weights are another model.
        paths = tuple(prepared.leaves.values())
        return (id(prepared.owner), paths, str(item.dtype), tuple(item.shape), digest)

    def get(self, key: Key) -> Mapping[KeyPath, Tensor] | None:
        """Return an answer by path, or None."""
        found = self._entries.get(key)
        if found is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return found

    def forget(self, model: object) -> None:
        """Give up a model's answers: another one may get its identity."""
        for key in [key for key in self._entries if key[0] == id(model)]:
            self._bytes -= _size(self._entries.pop(key))

    def put(self, key: Key, outputs: Mapping[KeyPath, Tensor]) -> None:
        """Keep an answer, unless it alone exceeds the cache."""
        # Rows are views: without a copy each would keep its whole batch alive.
        kept = {path: tensor.clone() for path, tensor in outputs.items()}
        size = _size(kept)
        if size > self._max_bytes:
            return
        if key in self._entries:
            self._bytes -= _size(self._entries.pop(key))
        self._entries[key] = kept
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, given_up = self._entries.popitem(last=False)
            self._bytes -= _size(given_up)


def _size(outputs: Mapping[KeyPath, Tensor]) -> int:
    return _ENTRY_BYTES + sum(tensor.nbytes for tensor in outputs.values())

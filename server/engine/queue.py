"""Which waiting works run next, together. No threads, no clock, no tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class BatchQueue(Generic[T]):
    """Waiting items in order of arrival; those of equal key leave together.

    The next batch is the oldest item and the oldest others of its key. All other items stay, in
    order. So the head never waits for more than the batch being run, and nothing waits for a batch
    to fill. Every operation takes constant time per item.
    """

    def __init__(self, max_batch_size: int, max_batch_tokens: int) -> None:
        """Create an empty queue.

        Args:
            max_batch_size: Most items in a batch.
            max_batch_tokens: Most tokens in a batch; an item that exceeds it alone goes alone.
        """
        self._max_batch_size = max_batch_size
        self._max_batch_tokens = max_batch_tokens
        self._keys: OrderedDict[T, Hashable] = OrderedDict()
        self._tokens: dict[T, int] = {}
        self._groups: dict[Hashable, OrderedDict[T, None]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def push(self, item: T, key: Hashable, num_tokens: int = 0) -> None:
        """Add an item at the end."""
        self._keys[item] = key
        self._tokens[item] = num_tokens
        self._groups.setdefault(key, OrderedDict())[item] = None

    def discard(self, item: T) -> None:
        """Remove an item if it is still waiting."""
        if item not in self._keys:
            return
        key = self._keys.pop(item)
        del self._tokens[item]
        group = self._groups[key]
        del group[item]
        if not group:
            del self._groups[key]

    def next_batch(self) -> list[T]:
        """Remove and return the next batch, oldest first; empty if nothing waits."""
        if not self._keys:
            return []
        group = self._groups[next(iter(self._keys.values()))]
        batch: list[T] = []
        num_tokens = 0
        for item in group:
            num_tokens += self._tokens[item]
            is_over = num_tokens > self._max_batch_tokens
            if len(batch) == self._max_batch_size or (batch and is_over):
                break
            batch.append(item)
        for item in batch:
            self.discard(item)
        return batch

"""Which waiting items run next, together. Pure: no threads, no clock, no tensors.

First comes the priority class, then fairness between clients, then the earliest deadline. Clients
of a class take turns by deficit round robin, in FLOPs and by weight (Shreedhar and Varghese 1995,
Efficient Fair Queueing using Deficit Round Robin, SIGCOMM). Within a client the earliest deadline
goes first; what only makes an answer better has none. Requests without deadlines take turns as
well, by the times at which their items would start if all ran at once (Goyal, Vin and Cheng 1996,
Start-time Fair Queueing, SIGCOMM): a request of one item follows those that came before it, and is
not held up by all items of a large one.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import inf
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is known of a waiting item.

    Attributes:
        key: Equal for items that may share a batch.
        num_tokens: What it adds to a batch's tokens.
        flops: What its client is charged.
        client: Whose it is.
        weight: The client's share of what its class gets, above 0.
        priority: Class; lower ones go first, always.
        deadline: When an answer is of no use any more, seconds on the caller's clock.
        due: By which it is ordered; None for the deadline.
    """

    key: Hashable
    num_tokens: int = 0
    flops: float = 1.0
    client: str = ""
    weight: float = 1.0
    priority: int = 0
    deadline: float = inf
    due: float | None = None


class Taken(NamedTuple, Generic[T]):
    """What leaves the queue.

    Attributes:
        batch: To be run together, the head first; empty if nothing waits.
        expired: Items whose deadline has passed; they are not run.
    """

    batch: list[T]
    expired: list[T]


def _always(_: object) -> bool:
    return True


class Scheduler(Generic[T]):
    """Waiting items, by class, client and key.

    A batch is the head and others of its key in the order they would have come, then of lower
    classes. Nothing waits for a batch to fill. Taking one item costs the logarithm of those
    waiting, times the clients and keys among them.
    """

    def __init__(self, max_batch_size: int, max_batch_tokens: int) -> None:
        """Create an empty queue.

        Args:
            max_batch_size: Most items in a batch.
            max_batch_tokens: Most tokens in a batch; an item that exceeds it alone goes alone.
        """
        self._max_batch_size = max_batch_size
        self._max_batch_tokens = max_batch_tokens
        self._tickets: dict[T, Ticket] = {}
        self._requests: dict[T, Hashable] = {}
        self._classes: dict[int, OrderedDict[str, _Lane[T]]] = {}
        self._sequence = itertools.count()

    def __len__(self) -> int:
        return len(self._tickets)

    def push(self, item: T, ticket: Ticket, request: Hashable = None) -> None:
        """Add an item; each comes once, also after it has left.

        Args:
            item: To be run.
            ticket: What is known of it.
            request: Equal for the items of one request.
        """
        self._tickets[item] = ticket
        self._requests[item] = request
        lanes = self._classes.setdefault(ticket.priority, OrderedDict())
        lane = lanes.setdefault(ticket.client, _Lane())
        lane.weight = ticket.weight
        heap = lane.heaps.setdefault(ticket.key, [])
        start = lane.start(request, ticket.flops)
        due = ticket.deadline if ticket.due is None else ticket.due
        heapq.heappush(heap, (due, start, next(self._sequence), item))

    def discard(self, item: T) -> None:
        """Remove an item if it is still waiting."""
        ticket = self._tickets.pop(item, None)
        if ticket is not None:
            self._tidy(ticket, self._requests.pop(item))

    def next_batch(self, now: float = -inf, fits: Callable[[T], bool] = _always) -> Taken[T]:
        """Remove and return the next batch, and what expired before it.

        Args:
            now: On the clock of the deadlines.
            fits: Told of each item as it joins, says whether the batch's deadlines hold with it; a
                batch stops before the first for which they do not. The head always goes.
        """
        batch: list[T] = []
        expired: list[T] = []
        num_tokens = 0
        key: Hashable = None
        while len(batch) < self._max_batch_size:
            found = self._first(key if batch else None, any_key=not batch)
            if found is None:
                break
            item, lane = found
            ticket = self._tickets[item]
            if ticket.deadline < now:
                expired.append(item)
                self.discard(item)
                continue
            num_tokens += ticket.num_tokens
            has_room = num_tokens <= self._max_batch_tokens and fits(item)
            if batch and not has_room:
                break
            key = ticket.key
            lane.deficit -= ticket.flops
            lane.advance(ticket.flops)
            batch.append(item)
            self.discard(item)
        return Taken(batch, expired)

    def _first(self, key: Hashable, any_key: bool) -> tuple[T, _Lane[T]] | None:
        """Return whose turn it is, of a key or of any."""
        for priority in sorted(self._classes):
            lanes = self._classes[priority]
            heads = {
                client: head
                for client, lane in lanes.items()
                if (head := lane.head(key, any_key, self._tickets)) is not None
            }
            if not heads:
                continue
            # A round gives everybody enough for the dearest head: one of them can go after it.
            quantum = max(
                self._tickets[head].flops / lanes[client].weight for client, head in heads.items()
            )
            while True:
                for client in [name for name in lanes if name in heads]:
                    lane, head = lanes[client], heads[client]
                    if lane.deficit >= self._tickets[head].flops:
                        return head, lane
                    if not lane.had_turn:
                        lane.deficit += quantum * lane.weight
                        lane.had_turn = True
                        if lane.deficit >= self._tickets[head].flops:
                            return head, lane
                    lane.had_turn = False
                    lanes.move_to_end(client)
        return None

    def _tidy(self, ticket: Ticket, request: Hashable) -> None:
        """Forget a client without items: what it did not use is not saved up."""
        lanes = self._classes[ticket.priority]
        lane = lanes[ticket.client]
        lane.leave(request)
        if lane.is_empty(ticket.key, self._tickets):
            del lane.heaps[ticket.key]
        if not lane.heaps:
            del lanes[ticket.client]
        if not lanes:
            del self._classes[ticket.priority]


@dataclass(slots=True)
class _Lane(Generic[T]):
    """One client's items in one class, by key, each key's in order of deadline and start.

    Attributes:
        weight: The client's share of its class.
        deficit: FLOPs that it may still use in this round.
        had_turn: Whether it got its share of this round.
        heaps: By key: deadline, start, number of arrival and item.
        now: FLOPs that each waiting request has been given so far, if all ran at once.
        requests: By request, its items that wait and where its next one would start.
    """

    weight: float = 1.0
    deficit: float = 0.0
    had_turn: bool = False
    heaps: dict[Hashable, list[tuple[float, float, int, T]]] = field(default_factory=dict)
    now: float = 0.0
    requests: dict[Hashable, list[float]] = field(default_factory=dict)

    def start(self, request: Hashable, flops: float) -> float:
        """Add an item of a request; return when it would start, on the clock of `now`."""
        known = self.requests.setdefault(request, [0, 0.0])
        start = max(self.now, known[1])
        known[0] += 1
        known[1] = start + flops
        return start

    def advance(self, flops: float) -> None:
        """Take in that an item runs."""
        self.now += flops / len(self.requests)

    def leave(self, request: Hashable) -> None:
        """Take in that an item of a request waits no longer."""
        known = self.requests[request]
        known[0] -= 1
        if not known[0]:
            del self.requests[request]

    def head(self, key: Hashable, any_key: bool, waiting: dict[T, Ticket]) -> T | None:
        """Return the first item of a key, or of any."""
        keys = self.heaps if any_key else [key] if key in self.heaps else []
        tops = [self.heaps[k][0] for k in keys if not self.is_empty(k, waiting)]
        return min(tops, key=lambda top: top[:3])[3] if tops else None

    def is_empty(self, key: Hashable, waiting: dict[T, Ticket]) -> bool:
        """Drop what has left from the top of a heap; return whether nothing remains."""
        heap = self.heaps[key]
        while heap and heap[0][3] not in waiting:
            heapq.heappop(heap)
        return not heap

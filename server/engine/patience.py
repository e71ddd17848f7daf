"""How long clients wait before they give up, learnt from those that did.

A queue in order of arrival serves first who has waited longest. If clients give up sooner than
the queue is long, each of them is gone by the time of its answer, and all work is in vain. So where
many leave, requests are refused that would have to wait longer than clients do.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_MARGIN = 0.7  # of the wait after which clients left that others are let in for
_GROWTH = 1.1  # of the limit, a second: clients may have become patient
_MANY = 0.2  # of a client's last requests
_FORGET = 0.95  # what a request weighs less for each later one
_SMALLEST_STEP = 0.5  # of the limit, down
_LONG_S = 1000.0  # after which no limit is left
_MAX_CLIENTS = 1024


@dataclass(slots=True)
class _Seen:
    """What is known of one client.

    Attributes:
        limit_s: What its requests may be predicted to take, at the time of `since`.
        since: On the caller's clock.
        left: Part of its requests that it left, recent ones weighing most.
    """

    limit_s: float
    since: float
    left: float = 0.0


class Patience:
    """Of each client, those unheard of for longest forgotten first. For one event loop."""

    def __init__(self, most_s: float) -> None:
        """Begin with patient clients.

        Args:
            most_s: What a request may be predicted to take of which nothing else is known.
        """
        self._most_s = most_s
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def note_answer(self, client: str, now: float) -> None:
        """Record a request that its client waited for, at a time in seconds."""
        self._of(client, now).left *= _FORGET

    def note_departure(self, client: str, now: float, waited_s: float, predicted_s: float) -> None:
        """Record a request that its client left.

        Args:
            client: Whose it was.
            now: Seconds.
            waited_s: Since it arrived.
            predicted_s: What it was predicted to take when it was let in: where predictions are too
                low, the limit has to be low as well.
        """
        seen = self._of(client, now)
        seen.left = _FORGET * seen.left + (1 - _FORGET)
        if seen.left > _MANY:
            current = self.limit_s(client, now)
            enough = _MARGIN * min(waited_s, predicted_s)
            # One who leaves at once, for whatever reason, does not speak for the others.
            seen.limit_s, seen.since = min(current, max(enough, _SMALLEST_STEP * current)), now

    def limit_s(self, client: str, now: float) -> float:
        """Return what a client's requests may be predicted to take, waiting included."""
        seen = self._seen.get(client)
        if seen is None:
            return self._most_s
        growth: float = _GROWTH ** min(now - seen.since, _LONG_S)
        return min(self._most_s, seen.limit_s * growth)

    def _of(self, client: str, now: float) -> _Seen:
        seen = self._seen.setdefault(client, _Seen(self._most_s, now))
        self._seen.move_to_end(client)
        if len(self._seen) > _MAX_CLIENTS:
            self._seen.popitem(last=False)
        return seen

"""How long clients wait before they give up, learnt from those that did and those that did not.

A queue in order of arrival serves first who has waited longest. If clients give up sooner than
the queue is long, each of them is gone by the time of its answer, and all work is in vain. So
requests are refused that would have to wait longer than most of their client's requests would be
waited for. A request that was answered tells that it was waited for at least so long, and no more:
the estimate is Kaplan and Meier's (1958, Nonparametric Estimation from Incomplete Observations,
Journal of the American Statistical Association).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

_MARGIN = 0.7  # of the wait after which most have left
_LEAST_S = 0.1  # of a limit: who is refused comes back after a second, so a shorter wait is no loss
_MOST = 0.5
_FEWEST = 8  # departures from which anything is learnt
_TOGETHER_S = 0.005  # departures of so short a time are one: who ends closes every connection
_GROWTH = 1.1  # of the limit, a second: clients may have become patient
_LONG_S = 1000.0  # after which no limit is left
_KEPT = 256  # requests of a client
_EVERY_S = 0.1  # a client's requests are looked through
_MAX_CLIENTS = 1024


class Wait(NamedTuple):
    """How a request ended.

    Attributes:
        seconds: From its arrival.
        is_left: Whether its client left; else it was answered.
    """

    seconds: float
    is_left: bool


@dataclass(slots=True)
class _Seen:
    """What is known of one client.

    Attributes:
        limit_s: What its requests may be predicted to take, at the time of `since`.
        since: On the caller's clock.
        looked: When its requests were last looked through.
        left: When the departure came that was last counted.
        waits: Its last requests.
        predicted: Seconds predicted over seconds waited, of its last departures.
    """

    limit_s: float
    since: float
    looked: float = -inf
    left: float = -inf
    waits: deque[Wait] = field(default_factory=lambda: deque(maxlen=_KEPT))
    predicted: deque[float] = field(default_factory=lambda: deque(maxlen=_FEWEST))


class Patience:
    """Of each client, those unheard of for longest forgotten first. For one event loop."""

    def __init__(self, most_s: float) -> None:
        """Begin with patient clients.

        Args:
            most_s: What a request may be predicted to take of which nothing else is known.
        """
        self._most_s = most_s
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def note_answer(self, client: str, now: float, waited_s: float) -> None:
        """Record a request that its client waited for; times in seconds."""
        self._of(client, now).waits.append(Wait(waited_s, is_left=False))

    def note_departure(self, client: str, now: float, waited_s: float, predicted_s: float) -> None:
        """Record a request that its client left, unless it has just left another one.

        Args:
            client: Whose it was.
            now: Seconds.
            waited_s: Since it arrived.
            predicted_s: What it was predicted to take when it was let in: where predictions are too
                low, the limit has to be low as well.
        """
        seen = self._of(client, now)
        if now - seen.left < _TOGETHER_S:
            return
        seen.left = now
        seen.waits.append(Wait(waited_s, is_left=True))
        seen.predicted.append(min(1.0, predicted_s / max(waited_s, 1e-9)))
        if now - seen.looked < _EVERY_S:
            return
        seen.looked = now
        accuracy = sorted(seen.predicted)[len(seen.predicted) // 2]
        limit_s = max(_LEAST_S, _MARGIN * patience_s(seen.waits) * accuracy)
        if limit_s < self.limit_s(client, now):
            seen.limit_s, seen.since = limit_s, now

    def limit_s(self, client: str, now: float) -> float:
        """Return what a client's requests may be predicted to take, waiting included."""
        seen = self._seen.get(client)
        if seen is None:
            return self._most_s
        growth: float = _GROWTH ** min(now - seen.since, _LONG_S)
        return min(self._most_s, seen.limit_s * growth)

    def _of(self, client: str, now: float) -> _Seen:
        seen = self._seen.get(client)
        if seen is None:
            seen = self._seen[client] = _Seen(self._most_s, now)
        self._seen.move_to_end(client)
        if len(self._seen) > _MAX_CLIENTS:
            self._seen.popitem(last=False)
        return seen


def patience_s(waits: Sequence[Wait]) -> float:
    """Return the wait after which most requests would have been left; infinity if they would not.

    Args:
        waits: In any order.
    """
    staying, departures = 1.0, 0
    for position, wait in enumerate(sorted(waits)):
        if wait.is_left:
            departures += 1
            staying *= 1 - 1 / (len(waits) - position)
            if staying < _MOST and departures >= _FEWEST:
                return wait.seconds
    return inf

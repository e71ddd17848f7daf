"""By how much a client's requests differ from what they were estimated at before they were read.

A request is let in, or told when to come back, before its texts are tokenised and before it has a
subnet. Its length is guessed from its characters, which depends on the language and on who writes.
"""

from __future__ import annotations

from collections import OrderedDict

_FORGET = 0.8  # what a request weighs less for each later one
_MOST = 10.0  # of either side
_MAX_CLIENTS = 1024


class Estimates:
    """Of each client, those unheard of for longest forgotten first. For one event loop."""

    def __init__(self) -> None:
        # Seconds estimated, and those predicted once more was known, decayed.
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def ratio(self, client: str) -> float:
        """Return what an estimate is to be multiplied by; 1 where nothing is known."""
        estimated_s, known_s = self._seen.get(client, (0.0, 0.0))
        if estimated_s <= 0:
            return 1.0
        return min(_MOST, max(1 / _MOST, known_s / estimated_s))

    def note(self, client: str, estimated_s: float, known_s: float) -> None:
        """Take in what a request was estimated at, and what is predicted now that it is read."""
        if estimated_s <= 0:
            return
        before = self._seen.get(client, (0.0, 0.0))
        self._seen[client] = (_FORGET * before[0] + estimated_s, _FORGET * before[1] + known_s)
        self._seen.move_to_end(client)
        if len(self._seen) > _MAX_CLIENTS:
            self._seen.popitem(last=False)

"""When those who were refused should come back: one after the other, not all at once.

A hundred clients that are told the same time come back together; all but a few are refused again,
and refusing takes the time that answering would need. So refused requests get their times as from a
queue that drains as fast as the server items.
"""

from __future__ import annotations

from collections import OrderedDict

_HASTE = 1.2  # over the rate at which requests are done, so that there is always one to do
_LONGEST_S = 60.0  # clients take a longer wait as "never"; who ignores the time only lengthens it
_MAX_CLIENTS = 1024


class Returns:
    """Of each client, those unheard of for longest forgotten first. For one event loop."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, float] = OrderedDict()

    def after_s(self, client: str, now: float, room_s: float, own_s: float) -> float:
        """Return after how many seconds a refused request should come back.

        Args:
            client: Whose it is.
            now: Seconds, on any clock that never goes back.
            room_s: After which there will be room for one.
            own_s: It will take itself.
        """
        first = now + room_s
        turn = max(first, self._last.get(client, first))
        self._last[client] = min(turn + own_s / _HASTE, first + _LONGEST_S)
        self._last.move_to_end(client)
        if len(self._last) > _MAX_CLIENTS:
            self._last.popitem(last=False)
        return turn - now

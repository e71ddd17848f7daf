"""Requests begin one in each turn of the event loop, in the order in which they arrived.

The loop runs what is ready in the order in which it became so. Without turns, all requests of a
burst would be read, decoded and searched for before the first answer, long computed, is sent.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable


class Starter:
    """Begins requests of all connections of one event loop."""

    def __init__(self) -> None:
        """Begin nothing yet."""
        self._waiting: deque[Callable[[], None]] = deque()  # at most one of each connection
        self._has_begun = False  # one in this turn

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def put(self, begin: Callable[[], None], loop: AbstractEventLoop) -> None:
        """Begin a request now, or once those before it have begun.

        Args:
            begin: Makes the request's task.
            loop: On which this is called.
        """
        if self._has_begun:
            self._waiting.append(begin)
            return
        self._begin(begin, loop)

    def _begin(self, begin: Callable[[], None], loop: AbstractEventLoop) -> None:
        self._has_begun = True
        begin()
        loop.call_soon(self._go_on, loop)

    def _go_on(self, loop: AbstractEventLoop) -> None:
        if self._waiting:
            self._begin(self._waiting.popleft(), loop)
        else:
            self._has_begun = False

"""Who still uses what is about to go."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Uses:
    """Counts the users of objects, told apart by identity. For one event loop, without a lock."""

    def __init__(self) -> None:
        self._users: dict[int, int] = {}
        self._freed: dict[int, asyncio.Event] = {}

    @contextmanager
    def hold(self, thing: object) -> Iterator[None]:
        """Count one more user while the block runs."""
        key = id(thing)  # taken by no other object as long as this one is held
        self._users[key] = self._users.get(key, 0) + 1
        try:
            yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                if key in self._freed:
                    self._freed.pop(key).set()

    async def until_free(self, thing: object) -> None:
        """Return once nobody uses an object that nobody begins to use any more."""
        if id(thing) in self._users:
            await self._freed.setdefault(id(thing), asyncio.Event()).wait()

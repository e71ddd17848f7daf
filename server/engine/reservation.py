"""Room in the engine, and works that use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from server.engine.flows import Room
from server.engine.work import Result, Work

Submit: TypeAlias = Callable[[Sequence[Work], Room], Awaitable[list[Result]]]


class Reservation:
    """Room for a number of works, kept by `server.engine.engine.Engine.reserve`.

    Attributes:
        room: What is held.
    """

    def __init__(self, submit: Submit, room: Room) -> None:
        self._submit = submit
        self.room = room
        self._left = room.num_works

    async def submit(self, works: Sequence[Work]) -> list[Result]:
        """Run works and return their results in order.

        If the caller is cancelled, or one work fails, those still waiting leave the queue.

        Raises:
            InferenceError: If the back end failed on one of them.
            DeadlineError: If the deadline of one passed before its turn.
            ModelNotReadyError: If the engine is not running.
        """
        assert len(works) <= self._left, "more works than were reserved"
        self._left -= len(works)
        return await self._submit(works, self.room)

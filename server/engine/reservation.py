"""Room in the engine, and items that use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from server.engine.flows import Room
from server.engine.item import ItemResult, QueueItem

Submit: TypeAlias = Callable[[Sequence[QueueItem], Room], Awaitable[list[ItemResult]]]


class Reservation:
    """Room for a number of items, kept by `server.engine.engine.Engine.reserve`.

    Attributes:
        room: What is held.
    """

    def __init__(self, submit: Submit, room: Room) -> None:
        self._submit = submit
        self.room = room
        self._left = room.num_items

    async def submit(self, items: Sequence[QueueItem]) -> list[ItemResult]:
        """Run items and return their results in order.

        If the caller is cancelled, or one item fails, those still waiting leave the queue.

        Raises:
            InferenceError: If the back end failed on one of them.
            DeadlineError: If the deadline of one passed before its turn.
            ModelNotReadyError: If the engine is not running.
        """
        assert len(items) <= self._left, "more items than were reserved"
        self._left -= len(items)
        return await self._submit(items, self.room)

"""Room in the engine, and items that use it."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Protocol

from server.engine.flows import Room
from server.engine.item import ItemResult, QueueItem


class Runs(Protocol):
    """What runs the items of a reservation: the engine."""

    def delay_s(self, room: Room, seconds: float, deadline: float = inf) -> float: ...  # noqa: D102

    async def submit(self, items: Sequence[QueueItem], room: Room) -> list[ItemResult]: ...  # noqa: D102

    async def submit_until(  # noqa: D102
        self, items: Sequence[QueueItem], room: Room, until: float
    ) -> list[ItemResult | None]: ...


class Reservation:
    """Room for a number of items at a time, kept by `server.engine.engine.Engine.reserve`.

    Attributes:
        room: What is held.
    """

    def __init__(self, engine: Runs, room: Room) -> None:
        self._engine = engine
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
        self._take(len(items))
        try:
            return await self._engine.submit(items, self.room)
        finally:
            self._left += len(items)

    async def submit_until(
        self, items: Sequence[QueueItem], until: float
    ) -> list[ItemResult | None]:
        """Run items and return, at the latest at a time, the results that there are; in order.

        Args:
            items: To be run.
            until: On the engine's clock; those without a result by then leave the queue.

        Returns:
            None for each that had no result in time.

        Raises:
            InferenceError: If the back end failed on one of them.
            ModelNotReadyError: If the engine is not running.
        """
        self._take(len(items))
        try:
            return await self._engine.submit_until(items, self.room, until)
        finally:
            self._left += len(items)

    def delay_s(self, seconds: float) -> float:
        """Predict how long items would wait, if they were submitted now.

        Args:
            seconds: They are predicted to take.
        """
        return self._engine.delay_s(self.room, seconds)

    def _take(self, num_items: int) -> None:
        assert num_items <= self._left, "more items than were reserved"
        self._left -= num_items

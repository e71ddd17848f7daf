"""What one caller wants done, item by item, on threads that take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Piecework:
    """Items of one caller, begun in order, each by any thread.

    Attributes:
        function: Called on each item.
        items: All of them.
        costs: Predicted nanoseconds of each, whole, so that sums of millions stay exact.
        client: Whose they are.
        weight: The client's share, above 0.
        due: When they are of no use any more, on any one clock; infinity for never.
        done: Resolved once nothing runs and nothing is to be begun.
        context: In which the function runs, so that what is logged names the request.
        tag: Virtual time at which the next item would be done.
        num_begun: Items that have been begun.
        num_running: Items that are running.
        end: One after the last item to be begun.
        results: By item.
        errors: By item that failed.
    """

    function: Callable[[Any], Any]
    items: Sequence[Any]
    costs: Sequence[int]
    client: str
    weight: float
    due: float
    done: asyncio.Future[None]
    context: Context = field(default_factory=copy_context)
    tag: float = 0.0
    num_begun: int = 0
    num_running: int = 0
    end: int = field(init=False)
    results: list[Any] = field(init=False)
    errors: dict[int, BaseException] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.end = len(self.items)
        self.results = [None] * self.end

    @property
    def left(self) -> int:
        """Predicted nanoseconds of what is still to be begun."""
        return sum(self.costs[self.num_begun : self.end])

    def do(self, index: int) -> bool:
        """Do one item; return whether that went well."""
        try:
            # A context can be entered once at a time.
            self.results[index] = self.context.copy().run(self.function, self.items[index])
        except BaseException as error:  # noqa: BLE001  # the caller gets it
            self.errors[index] = error
            return False
        return True

"""What is done on the worker thread between two batches, beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False, slots=True)
class WorkerCall:
    """A function, and who waits for what it returns.

    Attributes:
        function: Called on the worker thread.
        future: Of its result, on the event loop.
    """

    function: Callable[[], Any]
    future: asyncio.Future[Any]

    def run(self) -> Callable[[], None]:
        """Call the function; return what tells its result, for the event loop to call."""
        try:
            result = self.function()
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            return lambda error=error: self.fail(error)  # type: ignore[misc]
        return lambda: self._tell(result)

    def fail(self, error: Exception) -> None:
        """Tell that there is no result. On the event loop."""
        if not self.future.done():
            self.future.set_exception(error)

    def _tell(self, result: Any) -> None:
        if not self.future.done():
            self.future.set_result(result)

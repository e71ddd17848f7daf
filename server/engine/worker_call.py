"""What is done on the worker thread between two batches, beside them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False, slots=True)
class WorkerCall:
    """A function, and who waits for what it returns.

    Attributes:
        function: Called on the worker thread.
        future: Of its result.
    """

    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)

    def run(self) -> None:
        """Call the function, unless nobody waits for it any more."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Tell that there is no result."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

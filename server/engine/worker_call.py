"""What is done on the worker thread between two batches, beside them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class WorkerCall:
    """A function, and who waits for what it returns.

    Attributes:
        future: Of its result.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        """Take a function, to be called on the worker thread."""
        self.future: Future[Any] = Future()
        self._function: Callable[[], Any] | None = function

    def run(self) -> None:
        """Call the function, unless nobody waits for it any more. Call once."""
        function, self._function = self._function, None
        assert function is not None
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - it is for whoever waits
            self.future.set_exception(error)
        else:
            # Whoever waits may want what the function holds, such as a model, to be free by then.
            del function
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Tell that there is no result."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

"""Whether the client of a request has left: told by the connection where it can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Receive, Scope

LEAVING = "leaving"
"""Under which the state of a request's scope has what tells, if our own connection carries it."""


class Leaving:
    """Tells one request at a time that its client has closed the connection.

    To ask the connection costs a task for each request; this costs nothing until somebody leaves.
    """

    def __init__(self, read_on: Callable[[], None]) -> None:
        """Begin with a client that is there.

        Args:
            read_on: Lets the connection read, or it would not notice.
        """
        self._read_on = read_on
        self._tell: Callable[[], None] | None = None
        self._is_gone = False

    def watch(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call a function once the client has left, at once if it has; return what ends that."""
        if self._is_gone:
            tell()
        else:
            self._tell = tell
            self._read_on()
        return self._forget

    def leave(self) -> None:
        """Take in that the client has left."""
        self._is_gone = True
        if self._tell is not None:
            self._tell()

    def _forget(self) -> None:
        self._tell = None


def watch(scope: Scope, receive: Receive, tell: Callable[[], None]) -> Callable[[], None]:
    """Call a function once the client of a request has left, whatever server carries it.

    Args:
        scope: Of the request.
        receive: Of the request, the body of which has been read.
        tell: To call.

    Returns:
        What ends the watch.
    """
    leaving: Leaving | None = scope["state"].get(LEAVING)
    if leaving is not None:
        return leaving.watch(tell)

    async def ask() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        tell()

    return asyncio.create_task(ask()).cancel  # type: ignore[return-value]  # whether it was is told

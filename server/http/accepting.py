"""New connections, all that wait at a time.

uvloop takes one from a socket in each turn of the event loop. When turns are long, others would
wait for seconds, their requests sent and unread, until the system's queue of them overflows and
their clients try again seconds later.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from socket import socket

AT_ONCE = 256


class Acceptor:
    """Takes connections from a socket beside the server that listens to it."""

    def __init__(
        self, listening: int, connect: Callable[[], asyncio.Protocol], at_once: int = AT_ONCE
    ) -> None:
        """Begin, on the running loop.

        Args:
            listening: Descriptor of the socket.
            connect: Makes a connection's protocol.
            at_once: Connections taken in one turn of the loop. Fewer where several processes listen
                to the socket: one that is busy then leaves connections to the others.
        """
        self._at_once = at_once
        self._loop = asyncio.get_running_loop()
        self._socket = socket(fileno=os.dup(listening))
        self._connect = connect
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Take no more; those that have been taken stay."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        # What goes wrong, such as a lack of descriptors, the server meets as well, and sees to it.
        with suppress(OSError):
            for _ in range(self._at_once):
                connection, _ = self._socket.accept()
                connection.setblocking(False)
                task = self._loop.create_task(self._serve(connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket) -> None:
        with suppress(OSError):  # it has gone already
            await self._loop.connect_accepted_socket(self._connect, connection)

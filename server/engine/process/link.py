"""One connection of an HTTP process to the engine's."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from server.engine.process.wire import Frames, Hello, frame
from server.errors import ModelNotReadyError, RheostatError


class Link(asyncio.Protocol):
    """Sends messages, asks for results, and passes on what else is said. For one event loop.

    What is sent within one turn of the loop goes out at once.

    Attributes:
        hello: Done once the other side has greeted.
    """

    def __init__(self, told: Callable[..., None], lost: Callable[[Link], None]) -> None:
        """Wait to be connected, by `connected`.

        Args:
            told: Called with each message but greetings and results.
            lost: Called once the connection is lost, if the other side had greeted.
        """
        self._told, self._lost = told, lost
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[Hello] = self._loop.create_future()
        self._frames = Frames()
        self._outbox: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()

    @property
    def is_open(self) -> bool:
        """Whether the connection is there."""
        return self._transport is not None and not self._transport.is_closing()

    async def connected(self, path: Path) -> Hello:
        """Connect to a Unix socket; return the greeting.

        Raises:
            OSError: If nobody listens there, or the connection is lost at once.
        """
        try:
            await self._loop.create_unix_connection(lambda: self, str(path))
            return await self.hello
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connection; nobody is told of that."""
        self._lost = lambda link: None
        if self._transport is not None:
            self._transport.close()

    def send(self, name: str, *arguments: Any) -> None:
        """Say something; it is lost if the connection is."""
        data = frame((name, *arguments))
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(data)

    async def call(self, name: str, *arguments: Any) -> Any:
        """Return what the other side's `server.engine.process.models.Models` returns.

        Raises:
            ModelNotReadyError: If the connection is lost first.
            Exception: Whatever is raised there.
        """
        if not self.is_open:
            raise gone()
        number, future = next(self._numbers), self._loop.create_future()
        self._calls[number] = future
        self.send(name, number, *arguments)
        return await future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to send."""
        # No check by `isinstance`: uvloop's transports are not asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Take in what the other side says."""
        for name, *arguments in self._frames.feed(data):
            match name, arguments:
                case "hello", [hello]:
                    self.hello.set_result(hello)
                case "returned", [number, result]:
                    if not (future := self._calls.pop(number)).done():
                        future.set_result(result)
                case "raised", [number, error]:
                    if not (future := self._calls.pop(number)).done():
                        future.set_exception(error)
                case _:
                    self._told(name, *arguments)

    def connection_lost(self, error: Exception | None) -> None:
        """Leave nobody waiting."""
        self._transport = None
        for future in self._calls.values():
            if not future.done():
                future.set_exception(gone())
        if self.hello.done():
            self._lost(self)
        else:
            self.hello.set_exception(ConnectionResetError("the engine's process has gone"))

    def _flush(self) -> None:
        data, self._outbox = b"".join(self._outbox), []
        if self._transport is not None:
            self._transport.write(data)


def gone() -> RheostatError:
    """Return what those are told who wait for a process that has died."""
    return ModelNotReadyError("the engine's process has gone; it is being started again")

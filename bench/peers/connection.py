"""A client of one keep-alive connection that costs little: HTTP/1.1 by hand, nothing parsed."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from bench.peers.process import HOST, PATH, ServerError

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class BusyError(ServerError):
    """A server has no room for a request at this moment (429 or 503)."""


class Connection(asyncio.Protocol):
    """A kept-open connection with one request under way at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._needed = 0  # bytes of the answer; 0: not known yet
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self._received += data
        if not self._needed:
            if (end := self._received.find(b"\r\n\r\n")) < 0:
                return
            length = _LENGTH.search(self._received, 0, end)
            if length is None:
                self._fail("an answer has no Content-Length")
                return
            self._needed = end + 4 + int(length[1])
        if len(self._received) >= self._needed:
            answer, self._answer = self._answer, None
            content = bytes(self._received)
            self._received.clear()
            self._needed = 0
            if answer is not None and not answer.done():
                answer.set_result(content)

    def connection_lost(self, error: Exception | None) -> None:
        """Say so to whoever waits."""
        self._fail(f"the server closed a connection ({error})")

    def _fail(self, message: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ServerError(message))

    async def ask(self, request: bytes) -> bytes:
        """Return the body of the answer.

        Raises:
            BusyError: If the status is 429 or 503.
            ServerError: If the connection is lost, or the status is another one but 200.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answer = answer
        if self._transport.is_closing():
            raise ServerError("the server closed a connection")
        self._transport.write(request)
        content = await answer
        if not content.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            error = BusyError if content[9:12] in (b"429", b"503") else ServerError
            raise error(f"the server answered {content[:300]!r}")
        return content.partition(b"\r\n\r\n")[2]

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


def request(port: int, body: bytes) -> bytes:
    """Return the bytes that ask for one embedding."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

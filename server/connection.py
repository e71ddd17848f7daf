"""One connection of the web server: a client has to send the head of a request in time.

Uvicorn waits for ever for a head that has begun, and any byte ends its limit on idle connections: a
client that sends one byte and then nothing would hold a connection and its descriptor for good.
"""

from __future__ import annotations

import uuid
from asyncio import BaseTransport, TimerHandle
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from server.errors import RequestTimeoutError
from server.forms import own_form


class Connection(HttpToolsProtocol):
    """Uvicorn's protocol with one timer, set while no request is under way and bytes are awaited.

    A request that arrives in one piece sets none. Bodies are limited by
    `server.middleware.BodyTimeout`, idle connections by uvicorn.

    Attributes:
        read_timeout_s: To the end of a head, from the connection or the first byte after an answer.
    """

    read_timeout_s: ClassVar[float]
    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # None before the first request
    _timer: TimerHandle | None = None
    _is_in_head = False

    def connection_made(self, transport: BaseTransport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """Parse; where that begins no request, the rest of its head has to come in time.

        What is left of a body that was answered before it was read, and blank lines, count alike.
        """
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._unset_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin a request."""
        self._is_in_head = False
        self._unset_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request; its head may have begun meanwhile."""
        super().on_response_complete()
        if self._is_in_head:
            self._await_head()

    def _await_head(self) -> None:
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer = self.loop.call_later(self.read_timeout_s, self._give_up)

    def _unset_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_in_head:  # else an answer would be taken for that of a request to come
            self._answer(RequestTimeoutError.of("head", self.read_timeout_s))
        self.transport.close()

    def _answer(self, error: RequestTimeoutError) -> None:
        """Send an error in Rheostat's own form: the path, and so the protocol, is not known."""
        response = own_form(error, uuid.uuid4().hex)
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + bytes(response.body))


def with_read_timeout(seconds: float) -> type[Connection]:
    """Return the class of connections with a limit; uvicorn passes no arguments of ours."""

    class Limited(Connection):
        read_timeout_s = seconds

    return Limited

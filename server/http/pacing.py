"""How much of what a client sends is parsed at once; the rest is held, and no more is read.

Uvicorn parses whatever arrives, begins every request that it finds and queues them: a client that
sends many small ones without reading answers fills the memory, and one that sends tiny chunks
keeps the event loop for itself. Here requests are parsed one small piece after the other, none
while one is queued, and a connection has its turn among the others.
"""

from __future__ import annotations

from asyncio import BaseTransport, Transport
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

PIECE = 4096
"""Bytes parsed at once; requests that are whole in there are queued."""

_TURN = 16 * PIECE  # bytes parsed in one turn of the event loop
_SIP_S = 0.05  # between reads of what is not looked at
_CONTINUE = b"HTTP/1.1 100"
_LINGER_S = 1.0  # in which a client that is still sending can read why it is refused


class HeldFlow(FlowControl):
    """Uvicorn's, but nothing is read while bytes are held.

    Attributes:
        is_held: Whether some are.
    """

    is_held = False

    def resume_reading(self) -> None:
        """Read on, if nothing is held."""
        if not self.is_held:
            super().resume_reading()


class Joined:
    """A transport on which the head of an answer waits for its body: one system call for both."""

    def __init__(self, transport: Transport) -> None:
        self.is_closing = transport.is_closing
        self._transport = transport
        self._head: bytes | None = None
        self._is_begun = False

    def write(self, data: bytes) -> None:
        """Send what is no head, and the head before it."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif self._is_begun or data.startswith(_CONTINUE):
            self._transport.write(data)
        else:
            self._head, self._is_begun = data, True

    def close(self) -> None:
        """Send the head, if its body never came, and close."""
        if self._head is not None:
            self._transport.write(self._head)
            self._head = None
        self._transport.close()


class LastWords:
    """A transport on which an answer is the last; it closes in its own way."""

    def __init__(self, transport: Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Paced(HttpToolsProtocol):
    """Uvicorn's protocol, parsing in pieces."""

    cycle: RequestResponseCycle | None  # type: ignore[assignment]  # None before the first request
    flow: HeldFlow
    _is_deaf = False  # what still comes is not looked at
    _is_scheduled = False
    _held = b""  # received and not parsed

    def _room(self) -> int:
        """Return how many bytes may be parsed next; 0 if a limit is reached."""
        raise NotImplementedError

    def _give_in(self) -> None:
        """Refuse what exceeds the limit."""
        raise NotImplementedError

    def _parse(self, piece: bytes | memoryview) -> int:
        """Parse some bytes, and return how many of them were."""
        raise NotImplementedError

    def _turn_ended(self) -> None:
        """Do what is due after some bytes have been parsed."""
        raise NotImplementedError

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.flow = HeldFlow(self.transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives, or the first of it."""
        if self._is_deaf:
            self._pause()
            self.loop.call_later(_SIP_S, self._resume)
        elif not self._held and not self.pipeline and len(data) <= self._room():
            self._unset_keepalive_if_required()  # as below, for what nearly all send
            if (num_parsed := self._parse(data)) < len(data):
                self._held = data[num_parsed:]
                self._go_on()
            else:
                self._turn_ended()
        else:
            self._held = b"".join([self._held, data]) if self._held else data
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what is held."""
        self._held, self._is_deaf = b"", True
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Go on with what is held."""
        super().on_response_complete()
        if self._held:
            self._schedule()

    def _go_on(self) -> None:
        """Parse what is held, as far as one turn may take and requests are not queued."""
        self._is_scheduled = False
        if self._is_deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        held, left = memoryview(self._held), _TURN
        while len(held) and left > 0 and not self.pipeline and not self._is_deaf:
            if not (size := min(len(held), self._room())):
                self._give_in()
                break
            num_parsed = self._parse(held[:size])
            held, left = held[num_parsed:], left - num_parsed
        self._hold(bytes(held))
        self._turn_ended()

    def _hold(self, rest: bytes) -> None:
        """Keep what is not parsed, and read nothing more until it is."""
        self._held = b"" if self._is_deaf else rest
        if self._held:
            self._pause()
            if not self.pipeline:
                self._schedule()
        elif self.flow.is_held:
            self._resume()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._go_on)

    def _pause(self) -> None:
        self.flow.is_held = True
        self.flow.pause_reading()

    def _resume(self) -> None:
        """Read on, unless requests are queued or content has not been taken."""
        self.flow.is_held = False
        is_full = self.cycle is not None and len(self.cycle.body) > HIGH_WATER_LIMIT
        if not (self.pipeline or is_full or self.transport.is_closing()):
            self.flow.resume_reading()

    def _linger(self) -> None:
        """End the connection so that the client reads the answer: unread bytes would reset it."""
        if not self.transport.is_closing():
            self._is_deaf = True
            self.transport.write_eof()
            self._resume()
            self.loop.call_later(_LINGER_S, self.transport.close)

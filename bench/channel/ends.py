"""Both ends of a channel between two processes with an event loop each."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

SOCKET, MEMORY, PYZMQ = "Unix socket", "shared memory", "pyzmq"
_RING_BYTES = 2**22

_Received = Callable[[bytes], None]


class Channel(Protocol):
    """One end."""

    def send(self, data: bytes) -> None:
        """Send a message that `Frames` takes apart."""


class _Socket(asyncio.Protocol):
    """A stream; what is sent in one turn of the loop goes out at once."""

    def __init__(self, received: _Received) -> None:
        self.data_received = received  # type: ignore[method-assign,assignment]
        self._outbox: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, data: bytes) -> None:
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(data)

    def _flush(self) -> None:
        data, self._outbox = b"".join(self._outbox), []
        self._transport.write(data)


class _Zmq:
    """A pair of sockets; each message is sent by itself, pyzmq's own thread puts them together."""

    def __init__(self, path: str, is_asking: bool, received: _Received) -> None:
        import zmq  # type: ignore[import-not-found,unused-ignore]

        self._zmq, self._received = zmq, received
        self._socket: Any = zmq.Context.instance().socket(zmq.PAIR)
        (self._socket.bind if is_asking else self._socket.connect)(f"ipc://{path}")
        asyncio.get_running_loop().add_reader(self._socket.getsockopt(zmq.FD), self._read)

    def send(self, data: bytes) -> None:
        self._socket.send(data)
        self._read()  # its descriptor tells of changes only, and sending takes them away

    def _read(self) -> None:
        while self._socket.getsockopt(self._zmq.EVENTS) & self._zmq.POLLIN:
            self._received(self._socket.recv())


class _Ring:
    """Two rings of bytes in shared memory, and an eventfd for each side."""

    def __init__(
        self, path: str, wakes: tuple[int, int], is_asking: bool, received: _Received
    ) -> None:
        own, other = (0, 1) if is_asking else (1, 0)
        with Path(path).open("r+b") as file:
            self._memory = memoryview(mmap.mmap(file.fileno(), 2 * _RING_BYTES + 16))
        # Elements of a view are written at once; struct would clear them first, which shows.
        self._counts = self._memory[2 * _RING_BYTES :].cast("q")
        self._received, self._own, self._other = received, own, other
        self._out, self._in = own * _RING_BYTES, other * _RING_BYTES
        self._sent = self._taken = 0
        self._own_wake, self._other_wake = wakes[own], wakes[other]
        asyncio.get_running_loop().add_reader(self._own_wake, self._read)

    def send(self, data: bytes) -> None:
        # Requests under way are few: what is not taken yet always leaves room.
        self._copy(self._out, self._sent, data)
        self._sent += len(data)
        self._counts[self._own] = self._sent
        os.eventfd_write(self._other_wake, 1)

    def _copy(self, start: int, position: int, data: bytes) -> None:
        at = position % _RING_BYTES
        first = min(len(data), _RING_BYTES - at)
        self._memory[start + at : start + at + first] = data[:first]
        self._memory[start : start + len(data) - first] = data[first:]

    def _read(self) -> None:
        os.eventfd_read(self._own_wake)
        until = self._counts[self._other]
        at, size = self._taken % _RING_BYTES, until - self._taken
        first = min(size, _RING_BYTES - at)
        buffer, start = self._memory, self._in
        data = bytes(buffer[start + at : start + at + first]) + bytes(
            buffer[start : start + size - first]
        )
        self._taken = until
        self._received(data)


class Ends(NamedTuple):
    """What both processes need to meet.

    Attributes:
        kind: The channel.
        path: Of the memory or the socket.
        fds: Of the asking and of the answering side: sockets or eventfds.
    """

    kind: str
    path: str
    fds: tuple[int, int]

    async def open(self, is_asking: bool, received: _Received) -> Channel:
        """Return an end."""
        if self.kind == PYZMQ:
            return _Zmq(self.path, is_asking, received)
        if self.kind == MEMORY:
            return _Ring(self.path, self.fds, is_asking, received)
        own = socket.socket(fileno=self.fds[0 if is_asking else 1])
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: _Socket(received), sock=own))[1]


@contextmanager
def ends_of(kind: str) -> Iterator[Ends]:
    """Yield what two processes need for a channel of a kind; files of theirs end with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/shared"
        if kind == MEMORY:
            Path(path).write_bytes(bytes(2 * _RING_BYTES + 16))
            yield Ends(kind, path, (os.eventfd(0), os.eventfd(0)))
        elif kind == PYZMQ:
            yield Ends(kind, path, (0, 0))
        else:
            pair = socket.socketpair()
            yield Ends(kind, "", (pair[0].detach(), pair[1].detach()))

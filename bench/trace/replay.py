"""An open-loop client: every request is sent when it is due, whatever became of those before.

Latency counts from when a request was due, so neither a slow server nor a late client hides
anything. Answers are kept as bytes and read afterwards: the client shares the server's cores.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import uvloop

from bench.peers.connection import Connection, request
from bench.peers.process import HOST, Running, ServerError
from bench.trace.arrivals import FloatArray

_MAX_CONNECTIONS = 6000  # a request beyond these waits for one, and its latency counts
_IDLE_S = 2.0  # servers close idle connections after some seconds; ours are given up before
_LEAD_S = 0.05  # until the first request, so that it is not late


class Outcome(NamedTuple):
    """What became of one request.

    Attributes:
        status: Of the answer; None if none came: the request is lost.
        latency_s: From when it was due to its answer, or to when it was given up.
        lag_s: From when it was due until it was sent.
        content: Body of the answer.
    """

    status: int | None
    latency_s: float
    lag_s: float
    content: bytes


def replay(
    server: Running, bodies: Sequence[bytes], due_s: FloatArray, patience_s: float = 15.0
) -> list[Outcome]:
    """Send requests at their times and return what became of each, in order.

    Args:
        server: To send to.
        bodies: One for each request.
        due_s: When each is due, seconds from the start, ascending, shape [requests].
        patience_s: For how long after the last one answers are waited for.
    """
    requests = [request(server.port, body) for body in bodies]
    gc.collect()
    gc.freeze()  # what was loaded before is not looked through while the clock runs
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Replay(server.port, patience_s).run(requests, due_s.tolist()))
    finally:
        gc.enable()
        gc.unfreeze()


class _Replay:
    def __init__(self, port: int, patience_s: float) -> None:
        self._port = port
        self._patience_s = patience_s
        self._idle: list[tuple[_Exchange, float]] = []
        self._room = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def run(self, requests: Sequence[bytes], due_s: Sequence[float]) -> list[Outcome]:
        started = time.perf_counter() + _LEAD_S
        asking = []
        for content, due in zip(requests, due_s, strict=True):
            if (wait := started + due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            asking.append(asyncio.create_task(self._ask(content, started + due)))
        await asyncio.wait(asking, timeout=self._patience_s)
        for task in asking:
            task.cancel()  # those that have ended stay as they are
        outcomes = await asyncio.gather(*asking)
        for connection, _ in self._idle:
            connection.close()
        return outcomes

    async def _ask(self, content: bytes, due: float) -> Outcome:
        connection: _Exchange | None = None
        sent = due
        try:
            async with self._room:
                connection = await self._connection()
                sent = time.perf_counter()
                status, answer = await connection.exchange(content)
                now = time.perf_counter()
                self._idle.append((connection, now))
                return Outcome(status, now - due, sent - due, answer)
        except (ServerError, OSError, asyncio.CancelledError) as error:
            if connection is not None:
                connection.close()
            return Outcome(None, time.perf_counter() - due, sent - due, repr(error).encode())

    async def _connection(self) -> _Exchange:
        """Return the connection used last, so that the others may grow old, or a new one."""
        while self._idle:
            connection, since = self._idle.pop()
            if time.perf_counter() - since < _IDLE_S and connection.is_open:
                return connection
            connection.close()
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Exchange, HOST, self._port))[1]


class _Exchange(Connection):
    """A connection that takes every status for an answer."""

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    async def exchange(self, content: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body of the answer.

        Raises:
            ServerError: If the connection is lost.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answer = answer
        if self._transport.is_closing():
            raise ServerError("the server closed a connection")
        self._transport.write(content)
        head, _, body = (await answer).partition(b"\r\n\r\n")
        with suppress(IndexError, ValueError):
            return int(head.split(maxsplit=2)[1]), body
        raise ServerError(f"no status in {head[:100]!r}")

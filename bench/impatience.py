"""Clients that give up: how much of what is answered is still waited for?

Many connections, each with one request at a time and no latency budget. A client that has no answer
in time closes its connection and tries again on a new one; one that is refused waits as long as it
is told. What counts is goodput: answers that their clients waited for.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import uvloop

from bench.peers.connection import request
from bench.peers.process import HOST, Running

_DEFAULT_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Goodput:
    """What became of all requests.

    Attributes:
        answered_per_s: In time.
        p50_ms: Of those.
        answered: Their number.
        refused: With 429 or 503.
        given_up: By their clients.
        other: Answers of any other kind, and broken connections.
    """

    answered_per_s: float
    p50_ms: float
    answered: int
    refused: int
    given_up: int
    other: int


def impatient_loop(
    server: Running, bodies: Sequence[bytes], connections: int, seconds: float, patience_s: float
) -> Goodput:
    """Send from many connections for some time.

    Args:
        server: To send to.
        bodies: Of the requests, used over and over.
        connections: Clients.
        seconds: For how long.
        patience_s: After which a client gives up.
    """
    requests = itertools.cycle([request(server.port, body) for body in bodies])
    found: Counter[str] = Counter()
    latencies: list[float] = []

    async def client(until: float) -> None:
        connection: _Connection | None = None
        while (started := time.perf_counter()) < until:
            try:
                async with asyncio.timeout(patience_s):
                    connection = connection or await _Connection.open(server.port)
                    status, retry_s = await connection.ask(next(requests))
            except TimeoutError:
                found["given up"] += 1
                _close(connection)
                connection = None
                continue
            except (OSError, EOFError, ValueError):
                found["other"] += 1
                _close(connection)
                connection = None
                await asyncio.sleep(_DEFAULT_RETRY_S)
                continue
            if status == 200:
                latencies.append(time.perf_counter() - started)
            elif status in (429, 503):
                found["refused"] += 1
                await asyncio.sleep(min(retry_s, max(0.0, until - time.perf_counter())))
            else:
                found["other"] += 1
        _close(connection)

    async def load() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(client(until) for _ in range(connections)))

    uvloop.run(load())
    middle = sorted(latencies)[len(latencies) // 2] if latencies else 0.0
    return Goodput(
        len(latencies) / seconds,
        1000 * middle,
        len(latencies),
        found["refused"],
        found["given up"],
        found["other"],
    )


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> _Connection:
        return cls(*await asyncio.open_connection(HOST, port))

    async def ask(self, sent: bytes) -> tuple[int, float]:
        """Send a request; return the status of its answer and when to try again, seconds."""
        self._writer.write(sent)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, *lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        await self._reader.readexactly(int(headers["content-length"]))
        retry_s = float(headers.get("retry-after-ms", 1000 * _DEFAULT_RETRY_S)) / 1000
        return int(status.split(" ")[1]), retry_s

    def close(self) -> None:
        with suppress(OSError):
            self._writer.close()


def _close(connection: _Connection | None) -> None:
    if connection is not None:
        connection.close()

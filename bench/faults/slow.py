"""Clients that send a byte a second, in the head of a request or in its body."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from bench.faults.arena import Arena, Row
from bench.peers.process import HOST, PATH

_PAUSE_S = 1.0
_SLACK_S = 1.0  # of a busy machine
_HEAD = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n".encode()
_STARTS = {"head": _HEAD + b"X-Slow: ", "body": _HEAD + b"Content-Length: 100000\r\n\r\n"}


@dataclass(frozen=True)
class Ended:
    """How a slow connection ended.

    Attributes:
        part: Of the request that was slow.
        status: Of the answer; empty without one.
        seconds: From the connection to its end; infinite if it did not end.
    """

    part: str
    status: str
    seconds: float


def run(arena: Arena) -> Iterator[Row]:
    """Open all at once and see how long each is let."""
    limit_s, each = arena.read_timeout_s, 25 if arena.is_quick else 250
    with arena.shared.watched("slow") as row:
        ended = asyncio.run(drip(arena.shared.port, each, limit_s + 4 * _SLACK_S))
    for part in _STARTS:
        found = [one for one in ended if one.part == part]
        statuses = Counter(one.status or "no answer" for one in found)
        slowest_s = max(one.seconds for one in found)
        said = ", ".join(f"{times} x {status}" for status, times in statuses.items())
        row.faulty += f"{part} at a byte a second: {said}, after at most {slowest_s:.2f} s; "
        row.figures[part] = {**statuses, "slowest_s": slowest_s}
        row.expect(set(statuses) == {"408"}, f"every slow {part} gets 408")
        row.expect(slowest_s <= limit_s + _SLACK_S, f"a slow {part} ends within the limit")
    yield row


async def drip(port: int, each: int, patience_s: float) -> list[Ended]:
    """Open connections of both kinds at once and send on each until it ends.

    Args:
        port: Of the server.
        each: Connections of each kind.
        patience_s: After which a connection counts as one that never ends.
    """
    kinds = [part for part in _STARTS for _ in range(each)]
    return await asyncio.gather(*(_drip(port, part, patience_s) for part in kinds))


async def _drip(port: int, part: str, patience_s: float) -> Ended:
    reader, writer = await asyncio.open_connection(HOST, port)
    start = time.monotonic()
    received = b""

    async def send() -> None:
        writer.write(_STARTS[part])
        while True:
            await asyncio.sleep(_PAUSE_S)
            writer.write(b"a")

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(patience_s):
            with suppress(ConnectionError):  # it was closed while a byte was under way
                while chunk := await reader.read(65536):
                    received += chunk
    except TimeoutError:
        return Ended(part, "", float("inf"))
    finally:
        sending.cancel()
        writer.close()
    return Ended(part, received[9:12].decode(), time.monotonic() - start)

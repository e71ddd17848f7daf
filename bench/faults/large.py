"""Bodies far above the limit, from clients that send all of it before they listen."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from bench.faults.arena import Arena, Row
from bench.peers.process import HOST, PATH

_CHUNK = bytes(2**16)
_HEAD = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
_TIMEOUT_S = 60.0
_SLACK_MB = 20
_LIMIT_MB = 20 * 2**20 / 1e6  # `max_body_bytes`; held twice while pieces are put together


def run(arena: Arena) -> Iterator[Row]:
    """Send several at a time, with their length declared and without."""
    size, at_once, count = (40_000_000, 2, 8) if arena.is_quick else (100_000_000, 4, 80)
    for is_declared in (True, False):
        name = "declared" if is_declared else "chunked"
        with arena.shared.watched(f"large, {name}") as row, ThreadPoolExecutor(at_once) as pool:
            asked = [pool.submit(_send, arena.shared.port, size, is_declared) for _ in range(count)]
            found = Counter(one.result() for one in asked)
        said = ", ".join(f"{times} x {status}" for status, times in found.items())
        row.faulty = f"{count} bodies of {size / 1e6:g} MB, {at_once} at a time: {said}"
        row.figures = dict(found)
        row.expect(set(found) == {"413"}, "every body that is too large gets 413")
        allowed_mb = _SLACK_MB + (0 if is_declared else 2 * at_once * _LIMIT_MB)
        grown_mb = row.most_mb - row.before_mb
        row.expect(grown_mb < allowed_mb, f"they take less than {allowed_mb:.0f} MB")
        yield row


def _send(port: int, size: int, is_declared: bool) -> str:
    """Send a body; return the status of the answer."""
    length = f"Content-Length: {size}" if is_declared else "Transfer-Encoding: chunked"
    chunk = _CHUNK if is_declared else b"%x\r\n%b\r\n" % (len(_CHUNK), _CHUNK)
    with socket.create_connection((HOST, port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(f"{_HEAD}{length}\r\n\r\n".encode())
        with suppress(ConnectionError):  # it may be closed before everything is sent
            for _ in range(size // len(_CHUNK)):
                connection.sendall(chunk)
        try:
            return connection.recv(12)[9:].decode() or "no answer"
        except ConnectionError as error:
            return repr(error)

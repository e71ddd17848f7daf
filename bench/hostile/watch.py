"""Watches `/healthz` and the server's memory beside the cases, from a process of its own."""

from __future__ import annotations

import http.client
import math
import multiprocessing
import re
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Self

_EVERY_S = 0.02
_ANSWER_S = 30.0
_RESIDENT = re.compile(r"^process_resident_memory_bytes (\S+)$", re.MULTILINE)


@dataclass
class Waits:
    """How long `/healthz` took.

    Attributes:
        seconds: Of each time; infinite where there was no answer.
        started: When each was asked, by `time.monotonic`.
    """

    seconds: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)

    def above(self, limit_s: float) -> list[tuple[float, float]]:
        """Return when the waits began that were longer, and how long they were."""
        pairs = zip(self.started, self.seconds, strict=True)
        return [(at, took) for at, took in pairs if took > limit_s]


class Watcher:
    """Asks while it is entered as a context."""

    def __init__(self, address: tuple[str, int]) -> None:
        """Prepare to watch a server at an address."""
        spawned = multiprocessing.get_context("spawn")  # threads of this process must not be copied
        self._ours, theirs = spawned.Pipe()
        self._process = spawned.Process(target=_watch, args=(address, theirs), daemon=True)
        self.waits = Waits()

    def __enter__(self) -> Self:
        """Begin, and return once the first answer has come."""
        self._process.start()
        self._ours.recv()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and keep what was seen."""
        self._ours.send(None)
        self.waits = self._ours.recv()
        self._process.join()


def _watch(address: tuple[str, int], pipe: Connection) -> None:
    waits = Waits()
    connection = http.client.HTTPConnection(*address, timeout=_ANSWER_S)
    while not pipe.poll():
        start = time.monotonic()
        took = _ask(connection)
        if not waits.seconds:
            pipe.send(None)
        waits.started.append(start)
        waits.seconds.append(took)
        time.sleep(max(0.0, _EVERY_S - took if math.isfinite(took) else 0.0))
    pipe.recv()
    pipe.send(waits)


def _ask(connection: http.client.HTTPConnection) -> float:
    start = time.monotonic()
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return math.inf
    return time.monotonic() - start if answer.status == 200 else math.inf


def resident_bytes(address: tuple[str, int], key: str | None, settle_s: float) -> float:
    """Return the server's resident memory, the least of the next seconds."""
    found: list[float] = []
    end = time.monotonic() + settle_s
    while not found or time.monotonic() < end:
        connection = http.client.HTTPConnection(*address, timeout=_ANSWER_S)
        connection.request("GET", "/metrics", headers={} if key is None else {"x-api-key": key})
        text = connection.getresponse().read().decode()
        connection.close()
        if (match := _RESIDENT.search(text)) is None:
            raise ValueError("/metrics has no process_resident_memory_bytes")
        found.append(float(match[1]))
        time.sleep(0.5)
    return min(found)

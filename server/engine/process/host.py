"""The worker of the engine's process: answers go to the HTTP processes that wait for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

from server.engine.batch import Waiting
from server.engine.item import ItemResult, PreparedPlan
from server.engine.process.http_process import HttpClaim, HttpProcess
from server.engine.process.models import Models
from server.engine.process.wire import Hello, Message
from server.engine.worker_core import WorkerCore

_DRIFT_EVERY_S = 1.0


@dataclass(eq=False, kw_only=True)
class Host(WorkerCore):
    """A worker whose answers go to other processes.

    Attributes:
        max_text_chars: As for `server.catalog.load_one`.
        on_end: Called on the worker's thread once it runs nothing any more.
        models: That it runs.
    """

    max_text_chars: int
    on_end: Callable[[], None]
    models: Models = field(init=False)
    _connections: tuple[HttpProcess, ...] = field(default=(), init=False)
    # Of each model the version of its corrections that was told last.
    _told: dict[int, int] = field(default_factory=dict, init=False)
    _told_at: float = field(default=-inf, init=False)

    def __post_init__(self) -> None:
        """Begin without models."""
        super().__post_init__()
        self.models = Models(self, self.max_text_chars, self.clock)

    def greet(self, connection: HttpProcess) -> None:
        """Tell a connection from now on what all are told."""
        stats, pace = self.stats, self.worker.pace.value
        hello = Hello(os.getpid(), self.backend.name, self.backend.levels, stats, pace)
        connection.send([("hello", hello)])
        self._connections = (*self._connections, connection)

    def leave(self, connection: HttpProcess) -> None:
        """Forget a connection that is lost."""
        self._connections = tuple(one for one in self._connections if one is not connection)
        self.relay(connection, ("others_hold", id(connection), {}))
        self.models.leave(connection)

    def relay(self, sender: HttpProcess, message: Message) -> None:
        """Tell all but one what it has said."""
        for connection in self._connections:
            if connection is not sender:
                connection.send([message])

    def ask_others(
        self, asker: HttpProcess, timeout_s: float, name: str, *arguments: Any
    ) -> list[Any]:
        """Return what all but one process answer in time."""
        others = [one for one in self._connections if one is not asker]
        done, _ = futures.wait([one.ask(name, arguments) for one in others], timeout_s)
        return [one.result() for one in done if not one.cancelled()]

    def deliver(self, results: Sequence[tuple[Waiting, ItemResult]]) -> None:
        """Send each item what it asked for."""
        for connection, mine in _split(results).items():
            connection.send([("answered", [(number, tuple(result)) for number, result in mine])])

    # The events of the worker, on its thread.

    def taken(self, batch: Sequence[Waiting], until: float) -> None:
        """Tell every process how long the device is busy, and which items are its own."""
        pace, counting = self.worker.pace.value, _claim(batch[0]).connection
        numbers: dict[HttpProcess, list[int]] = {}
        for claim in map(_claim, batch):
            numbers.setdefault(claim.connection, []).append(claim.number)
        for connection in self._connections:
            size = len(batch) if connection is counting else 0
            connection.send([("taken", numbers.get(connection, []), size, until, pace)])

    def failed(self, batch: Sequence[Waiting], texts: Sequence[str]) -> None:
        """Tell who waits."""
        for connection, mine in _split(list(zip(batch, texts, strict=True))).items():
            connection.send([("failed", mine)])

    def expired(self, items: Sequence[Waiting]) -> None:
        """Tell who waits."""
        for connection, mine in _split([(one, None) for one in items]).items():
            connection.send([("expired", [number for number, _ in mine])])

    def learnt(self, prepared: PreparedPlan) -> None:
        """Tell every process what a model's profile predicts now, if that has changed."""
        profile, now = prepared.profile, self.clock()
        number = self.models.number_of(prepared.owner)
        if profile is None or number is None:
            return
        version = profile.corrections.version
        if self._told.get(number) == version and now < self._told_at + _DRIFT_EVERY_S:
            return
        self._told[number], self._told_at = version, now
        learnt: Message = ("learnt", number, profile.corrections, profile.drift)
        for connection in self._connections:
            connection.send([learnt, ("counted", self.stats)])

    def ended(self) -> None:
        """End all connections: nothing is answered any more."""
        for connection in self._connections:
            connection.close()
        self.on_end()


def _claim(one: Waiting) -> HttpClaim:
    return cast(HttpClaim, one.claim)


def _split(pairs: Sequence[tuple[Waiting, Any]]) -> dict[HttpProcess, list[tuple[int, Any]]]:
    """Return by connection the numbers of its items and what they are told; these are over."""
    found: dict[HttpProcess, list[tuple[int, Any]]] = {}
    for one, told in pairs:
        claim = _claim(one)
        if claim.end():
            found.setdefault(claim.connection, []).append((claim.number, told))
    return found

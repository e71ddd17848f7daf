"""Serves an app on the loop at hand, and tells what requests cost that loop."""

from __future__ import annotations

import asyncio
import base64
import cProfile
import pstats
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from fastapi import FastAPI

from bench.http.stages import OTHER, StageClock, watching
from server.http import addresses
from server.http.serving import Server, configured
from server.settings import Settings

MANY = 16  # connections
_IDLE_S = 1.0
_IN_PATH = re.compile(r".*/(?:site-packages|python3\.\d+)/|.*/(?=(?:server|search|models)/)")


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: Medians are over so many.
        requests: In each round, of each kind.
    """

    rounds: int
    requests: int


@dataclass
class Cost:
    """What a kind of request was seen to cost, an entry for each round; microseconds.

    Attributes:
        alone: With one connection.
        many: With sixteen.
        stages: With one connection, by stage.
        calls: Functions called, with one connection.
        functions: Of these, by function: calls, and microseconds under the profiler.
    """

    alone: list[float] = field(default_factory=list)
    many: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    calls: float = 0.0
    functions: list[tuple[str, float, float]] = field(default_factory=list)

    def stage(self, name: str) -> float:
        """Return the median of a stage."""
        return median(one.get(name, 0.0) for one in self.stages)


class Client:
    """The other process."""

    def __init__(self, running: asyncio.subprocess.Process) -> None:
        self._running = running

    @classmethod
    async def start(cls, port: int, requests: Sequence[bytes]) -> Client:
        """Start a client that sends these requests in turn."""
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.http.client", str(port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        client = cls(running)
        client._tell(b"".join(base64.b64encode(one) + b"\n" for one in [*requests, b""]))
        return client

    async def ask(self, connections: int, count: int) -> None:
        """Return once so many requests have been answered; RuntimeError if one was refused."""
        self._tell(b"%d %d\n" % (connections, count))
        assert self._running.stdout is not None
        if await self._running.stdout.readline() != b"done\n":
            raise RuntimeError("the client has stopped: see its message above")

    async def close(self) -> None:
        """End the process."""
        assert self._running.stdin is not None
        self._running.stdin.close()
        await self._running.wait()

    def _tell(self, text: bytes) -> None:
        assert self._running.stdin is not None
        self._running.stdin.write(text)


async def idle_per_s(seconds: float) -> float:
    """Return the CPU time that the event loop takes when nobody asks, microseconds a second."""
    start = time.thread_time_ns()
    await asyncio.sleep(seconds)
    return (time.thread_time_ns() - start) / 1e3 / seconds


async def spent(client: Client, connections: int, count: int, idle_us: float) -> float:
    """Return the CPU time that the event loop takes for one of some requests, microseconds.

    Args:
        client: Sends them.
        connections: At a time.
        count: Of all.
        idle_us: What the loop takes in a second without them, which is taken out.
    """
    start, began = time.thread_time_ns(), time.perf_counter()
    await client.ask(connections, count)
    taken_us = (time.thread_time_ns() - start) / 1e3
    return (taken_us - idle_us * (time.perf_counter() - began)) / count


async def measure(client: Client, effort: Effort, cost: Cost) -> None:
    """Add one round to what a kind of request costs; call it on the event loop."""
    idle_us = await idle_per_s(_IDLE_S)
    for connections, totals in ((1, cost.alone), (MANY, cost.many)):
        totals.append(await spent(client, connections, effort.requests, idle_us))
    clock = StageClock()
    with watching(clock):
        whole_us = await spent(client, 1, effort.requests, idle_us)
    stages = {name: ns / effort.requests / 1e3 for name, ns in clock.nanoseconds.items()}
    own_us = clock.own_ns / effort.requests / 1e3
    cost.stages.append({**stages, OTHER: whole_us - own_us - sum(stages.values())})


Calls = dict[str, tuple[float, float]]
"""By function, how often it was called and its own microseconds."""


async def profiled(work: Awaitable[object]) -> tuple[Calls, float]:
    """Return what the event loop calls until something is done, and the seconds that takes."""
    profiler = cProfile.Profile(time.thread_time)
    began = time.perf_counter()
    profiler.enable()
    await work
    profiler.disable()
    taken_s = time.perf_counter() - began
    found: Mapping[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    calls: Calls = {}
    for (file, line, name), (_, number, own_s, *_) in found.items():
        key = f"{_IN_PATH.sub('', file)}:{line} {name}" if line else name
        calls[key] = number, 1e6 * own_s
    return calls, taken_s


async def count(client: Client, effort: Effort, cost: Cost) -> None:
    """Count the calls of a kind of request, without those that are made anyway."""
    idle, idle_s = await profiled(asyncio.sleep(2 * _IDLE_S))
    busy, busy_s = await profiled(client.ask(1, effort.requests))
    found = []
    for name, (calls, own_us) in busy.items():
        anyway, anyway_us = (x * busy_s / idle_s for x in idle.get(name, (0.0, 0.0)))
        each = (calls - anyway) / effort.requests, (own_us - anyway_us) / effort.requests
        found.append((name, *each))
    cost.calls = sum(calls for _, calls, _ in found)
    cost.functions = sorted(found, key=lambda one: -one[2])


@asynccontextmanager
async def serving(app: FastAPI, settings: Settings) -> AsyncIterator[int]:
    """Serve as `server.http.serving.serve` does, on the loop at hand; yields the port."""
    with addresses.bound(settings.host, 0)[0] as listening:
        started = asyncio.Event()
        server = Server(configured(app, settings), app.state.drain, 0, 5, started.set)
        task = asyncio.create_task(server.serve([listening]))
        await asyncio.wait(
            [task, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def run(
    app: FastAPI, settings: Settings, effort: Effort, kinds: Mapping[str, list[bytes]]
) -> dict[str, Cost]:
    """Serve, and return what each kind of request costs; kinds take turns in every round."""
    found = {kind: Cost() for kind in kinds}
    async with serving(app, settings) as port:
        clients = {kind: await Client.start(port, sent) for kind, sent in kinds.items()}
        try:
            for client in clients.values():
                await client.ask(MANY, effort.requests)  # to warm up
            for _ in range(effort.rounds):
                for kind, client in clients.items():
                    await measure(client, effort, found[kind])
            for kind, client in clients.items():
                await count(client, effort, found[kind])
        finally:
            for client in clients.values():
                await client.close()
    return found

"""Two kinds of load, and what the client's own share of the machine is.

Server and client share the same cores, so the client is kept small: requests are made beforehand
and answers are not parsed (`bench.peers.connection`). What it still costs, 0.1 to 0.3 ms a request,
is measured (`time.process_time`) and taken out for a second, corrected rate. With one connection
client and server take turns, so all of the client's CPU time comes off the wall time. With more
they run side by side on n cores, and an n-th of it comes off, as if the server had used what the
client left. A server that leaves cores idle would not have: the truth lies between both rates.

Closed loop: every connection sends its next request once its last one is answered. Open loop:
requests are due at random times (Poisson) whatever the server does, and latency counts from when a
request was due, so that waiting for a slow server is not left out. Timers are good to 1 ms.

What other processes do meanwhile decides more than the server: an open loop at a rate that was
measured in a quiet moment is above what the server can do in a busy one, and waits then grow
without end; a pool of threads that spin suffers most. So the share of the cores that neither server
nor client used is noted, and `undisturbed` measures again what others disturbed.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import uvloop

from bench.peers.connection import BusyError, Connection, request
from bench.peers.process import HOST, Running, ServerError

_MAX_CONNECTIONS = 128  # in an open loop; requests beyond it wait, and their latency counts
_LIMIT_S = 120
_COLLECT_S = 600
_AGAIN_S = 0.1
_MAX_OTHERS = 0.04  # of the cores; more disturbs
_TRIES = 3
_CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Figures:
    """What one load showed.

    Attributes:
        requests_per_s: As seen.
        corrected_per_s: Without the client's CPU time, see above.
        p50_ms: Of the latency.
        p99_ms: Of the latency.
        server_ms: CPU time of the server for each request.
        client_ms: CPU time of the client for each request.
        num_requests: Answered.
        others: Share of the machine's cores that was used by neither; NaN where it is not told.
    """

    requests_per_s: float
    corrected_per_s: float
    p50_ms: float
    p99_ms: float
    server_ms: float
    client_ms: float
    num_requests: int
    others: float = math.nan


def undisturbed(measure: Callable[[], Figures]) -> Figures:
    """Measure until others leave the machine alone; at the last the least disturbed time counts."""
    found: list[Figures] = []
    while len(found) < _TRIES and not (found and found[-1].others <= _MAX_OTHERS):
        found.append(measure())
        if math.isnan(found[-1].others):
            break
    return min(found, key=lambda figures: figures.others)


def collect(server: Running, bodies: Sequence[bytes], connections: int) -> list[bytes]:
    """Return the answer to every request, in order; where there is no room it is asked again."""
    answers = [b""] * len(bodies)
    left = iter(range(len(bodies)))

    async def client(connection: Connection) -> None:
        for i in left:
            while not answers[i]:
                try:
                    answers[i] = await connection.ask(request(server.port, bodies[i]))
                except BusyError:
                    await asyncio.sleep(_AGAIN_S)

    def work(pool: list[Connection]) -> Awaitable[None]:
        return _all(client(connection) for connection in pool)

    _run(server, connections, work, _COLLECT_S)
    return answers


def closed_loop(
    server: Running, bodies: Sequence[bytes], connections: int, seconds: float
) -> Figures:
    """Send for some time; each connection waits for its answer before it sends again."""
    requests = itertools.cycle([request(server.port, body) for body in bodies])
    latencies: list[float] = []

    async def client(connection: Connection, until: float) -> None:
        while (started := time.perf_counter()) < until:
            await connection.ask(next(requests))
            latencies.append(time.perf_counter() - started)

    async def load(pool: list[Connection]) -> None:
        until = time.perf_counter() + seconds
        await _all(client(connection, until) for connection in pool)

    return _measured(server, connections, load, latencies, min(connections, _CORES))


def answer_times(
    server: Running, bodies: Iterator[bytes], connections: int, seconds: float
) -> list[float]:
    """Send as `closed_loop` does; return when each request was answered, seconds from the start."""
    times: list[float] = []

    async def client(connection: Connection, start: float) -> None:
        while time.perf_counter() < start + seconds:
            await connection.ask(request(server.port, next(bodies)))
            times.append(time.perf_counter() - start)

    async def load(pool: list[Connection]) -> None:
        start = time.perf_counter()
        await _all(client(connection, start) for connection in pool)

    _run(server, connections, load)
    return times


def open_loop(
    server: Running, bodies: Sequence[bytes], rate: float, seconds: float, seed: int
) -> Figures:
    """Send at random times.

    Args:
        server: To send to.
        bodies: Of the requests, used over and over.
        rate: Mean requests per second.
        seconds: For how long requests are due; what is under way then is waited for.
        seed: Of the times.
    """
    requests = itertools.cycle([request(server.port, body) for body in bodies])
    rng = Random(seed)
    latencies: list[float] = []

    async def load(pool: list[Connection]) -> None:
        idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
        for connection in pool:
            idle.put_nowait(connection)

        async def ask(due: float) -> None:
            connection = await idle.get()
            await connection.ask(next(requests))
            latencies.append(time.perf_counter() - due)
            idle.put_nowait(connection)

        async with asyncio.TaskGroup() as tasks:
            due = started = time.perf_counter()
            while (due := due + rng.expovariate(rate)) < started + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(ask(due))

    return _measured(server, _MAX_CONNECTIONS, load, latencies, _CORES)


def _measured(
    server: Running,
    connections: int,
    load: Callable[[list[Connection]], Awaitable[None]],
    latencies: list[float],
    shared_by: int,
) -> Figures:
    wall = client = own = machine = 0.0

    async def timed(pool: list[Connection]) -> None:
        nonlocal wall, client, own, machine
        own -= server.cpu_s()
        machine -= _busy_s()
        client -= time.process_time()
        wall -= time.perf_counter()
        await load(pool)
        wall += time.perf_counter()
        client += time.process_time()
        machine += _busy_s()
        own += server.cpu_s()

    _run(server, connections, timed)
    count = len(latencies)
    if not count:
        raise ServerError("no request was due: the load is too short")
    p50, p99 = np.percentile(latencies, [50, 99]).tolist()
    return Figures(
        requests_per_s=count / wall,
        corrected_per_s=count / (wall - client / shared_by),
        p50_ms=1000 * p50,
        p99_ms=1000 * p99,
        server_ms=1000 * own / count,
        client_ms=1000 * client / count,
        num_requests=count,
        others=max(0.0, machine - own - client) / (wall * (os.cpu_count() or 1)),
    )


def _busy_s() -> float:
    """Return the seconds that all cores together have not been idle; NaN where it is not told."""
    try:
        names = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return math.nan
    user, nice, system, _, _, irq, softirq, steal = map(int, names[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _run(
    server: Running,
    connections: int,
    work: Callable[[list[Connection]], Awaitable[None]],
    limit_s: float = _LIMIT_S,
) -> None:
    """Do the work on open connections; a fault of the server comes out as ServerError."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        pool = [
            (await loop.create_connection(Connection, HOST, server.port))[1]
            for _ in range(connections)
        ]
        try:
            async with asyncio.timeout(limit_s):
                await work(pool)
        finally:
            for connection in pool:
                connection.close()

    gc.freeze()  # what was loaded before is not looked through again and again
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except* TimeoutError:
        raise ServerError(f"a load took more than {limit_s} s") from None
    except* (ServerError, OSError) as group:
        raise ServerError(str(_first(group))) from None


async def _all(clients: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner

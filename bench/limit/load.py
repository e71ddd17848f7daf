"""A closed loop that keeps every answer, and what the server did in a window of it.

Beside `bench.peers.load` it sends images as well, reads receipts, and tells the CPU time of the
server's threads. Answers are read after the window, so that the client stays small.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import statistics
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from bench.limit import threads
from bench.limit.cases import Case, Content
from bench.peers.connection import Connection
from bench.peers.process import HOST, Running, ServerError
from models.space import Value

T = TypeVar("T")
_LIMIT_S = 120
_LEAST = 20  # answers
_POLL_S = 0.005
STAGES = ("decode", "search", "queue", "run", "total")


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen between two moments of a load.

    Attributes:
        requests_per_s: Answered.
        p50_ms: Of the latency.
        batch: Mean number of inputs run together.
        loop_ms: CPU time of the server's event loop for each request.
        engine_ms: Of the thread that runs the model.
        decoding_ms: Of its other threads.
        client_ms: CPU time of this process for each request.
        server_cores: Cores that the server kept busy, on average.
        stages_ms: Medians of what receipts tell.
        num_requests: Answered.
    """

    requests_per_s: float
    p50_ms: float
    batch: float
    loop_ms: float
    engine_ms: float
    decoding_ms: float
    client_ms: float
    server_cores: float
    stages_ms: dict[str, float]
    num_requests: int

    @property
    def server_ms(self) -> float:
        """CPU time of the server for each request."""
        return self.loop_ms + self.engine_ms + self.decoding_ms


@dataclass(frozen=True, slots=True)
class _Moment:
    at: float
    client_s: float
    server_s: dict[threads.Thread, float]

    @classmethod
    def now(cls, server: Running) -> _Moment:
        return cls(time.perf_counter(), time.process_time(), threads.cpu_s(server.session))


def ask(server: Running, case: Case, contents: Sequence[Content]) -> list[dict[str, Any]]:
    """Return the answers to some contents, asked one after the other.

    Raises:
        ServerError: If one is refused.
    """

    async def one_by_one() -> list[bytes]:
        connection = await _connect(server)
        try:
            return [await connection.ask(case.request(server.port, each)) for each in contents]
        finally:
            connection.close()

    return [json.loads(answer) for answer in _run(one_by_one())]


def closed_loop(
    server: Running,
    case: Case,
    subnet: Mapping[str, Value],
    connections: int,
    seconds: float,
) -> Window:
    """Let every connection send its next request as soon as it is answered.

    Args:
        server: To send to.
        case: What to send, over and over.
        subnet: What every receipt has to name.
        connections: Requests under way at a time.
        seconds: Length of the window, or more until each connection has been answered once in it.
            It begins once each has been before: batches are full by then.

    Raises:
        ServerError: If a request is refused, or another subnet was run.
    """
    requests = itertools.cycle([case.request(server.port, each) for each in case.contents])
    answered: list[tuple[float, float, bytes]] = []  # when asked, when answered, the answer
    moments: list[_Moment] = []

    async def client(connection: Connection) -> None:
        while len(moments) < 2:
            asked = time.perf_counter()
            answer = await connection.ask(next(requests))
            answered.append((asked, time.perf_counter(), answer))

    async def watch() -> None:
        for pause in (0.0, seconds):
            enough = len(answered) + max(connections, _LEAST)
            await asyncio.sleep(pause)
            while len(answered) < enough:
                await asyncio.sleep(_POLL_S)
            moments.append(_Moment.now(server))

    async def load() -> None:
        pool = [await _connect(server) for _ in range(connections)]
        try:
            async with asyncio.timeout(_LIMIT_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(watch())
                for connection in pool:
                    tasks.create_task(client(connection))
        finally:
            for connection in pool:
                connection.close()

    gc.freeze()  # what was loaded before is not looked through again and again
    _run(load())
    first, last = moments
    in_window = [one for one in answered if first.at < one[1] <= last.at]
    return _window(server, subnet, first, last, in_window)


def _window(
    server: Running,
    subnet: Mapping[str, Value],
    first: _Moment,
    last: _Moment,
    answered: Sequence[tuple[float, float, bytes]],
) -> Window:
    count = len(answered)
    receipts = [json.loads(answer)["receipt"] for _, _, answer in answered]
    if other := next((r["subnet"] for r in receipts if r["subnet"] != subnet), None):
        raise ServerError(f"{other} was run, not {dict(subnet)}")
    spent = threads.spent(server.session, first.server_s, last.server_s)
    wall = last.at - first.at
    return Window(
        requests_per_s=count / wall,
        p50_ms=1000 * statistics.median(end - start for start, end, _ in answered),
        # Each batch of n is told of n times.
        batch=count / sum(1 / receipt["batch_sizes"][0] for receipt in receipts),
        loop_ms=1000 * spent.loop / count,
        engine_ms=1000 * spent.engine / count,
        decoding_ms=1000 * spent.decoding / count,
        client_ms=1000 * (last.client_s - first.client_s) / count,
        server_cores=(spent.loop + spent.engine + spent.decoding) / wall,
        stages_ms={
            stage: statistics.median(receipt["milliseconds"][stage] for receipt in receipts)
            for stage in STAGES
        },
        num_requests=count,
    )


async def _connect(server: Running) -> Connection:
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(Connection, HOST, server.port))[1]


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Do the work; a fault of the server comes out as ServerError."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except* TimeoutError:
        raise ServerError(f"a load took more than {_LIMIT_S} s") from None
    except* (ServerError, OSError) as group:
        raise ServerError(str(_first(group))) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner

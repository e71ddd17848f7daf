"""What one request costs on its way to a process of the engine and back, by channel.

Two processes, an event loop in each. One sends what a short text is sent as, the other answers each
with a vector of 384 values; both are pickled as the server does. Channels: the Unix socket of the
server, where messages of one turn of the loop go out at once; pyzmq over ipc, where it is there;
and rings in shared memory with an eventfd to wake the other side. Rounds take turns. CPU time is of
both processes. The first row is pickling alone.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import math
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

import torch
import uvloop

from bench import report
from bench.channel.ends import MEMORY, PYZMQ, SOCKET, Channel, Ends, ends_of
from models.nn.ragged import Value
from server.engine.process.wire import Frames, PlanRecipe, Work, frame, packed_recipe

_CONNECTIONS = (1, 32)
_WARM = 200
_HELLO, _CPU = -2, -1  # numbers beside those of requests


def _answer(ends: Ends) -> None:
    """Answer each request with a vector, as the process of the engine; until it is killed."""
    vector, frames = torch.zeros(384), Frames()

    async def run() -> None:
        def received(data: bytes) -> None:
            for name, *arguments in frames.feed(data):
                if name == "put":
                    channel.send(frame(("answered", arguments[0].request, vector)))
                else:
                    channel.send(frame(("answered", _CPU, time.process_time())))

        channel = await ends.open(False, received)
        channel.send(frame(("answered", _HELLO, None)))
        await asyncio.Event().wait()  # until this process is ended

    uvloop.run(run())


def _request(number: int) -> bytes:
    subnet = (("depth", 6), ("dim", 384))
    recipe = PlanRecipe(0, subnet, ("similarity",), False, frozenset(), frozenset())
    text = {"text": (torch.arange(16), b"0123456789abcdef", 16)}
    items: list[tuple[int, Any, dict[bytes, Value]]] = [(0, text, {})]
    work = Work(packed_recipe(recipe), number, 0.0, 1.0, 1e8, "", 1.0, 1, math.inf, items)
    return frame(("put", work))


class _Asking:
    """The process that has requests; several may be under way."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.channel: Channel

    def received(self, data: bytes) -> None:
        """Take in answers."""
        for _, number, result in self._frames.feed(data):
            self._waiting.pop(number).set_result(result)

    async def ask(self, number: int, data: bytes) -> Any:
        """Return the answer to a message."""
        future = self.expected(number)
        self.channel.send(data)
        return await future

    def expected(self, number: int) -> asyncio.Future[Any]:
        """Return what becomes the answer of this number."""
        self._waiting[number] = future = asyncio.get_running_loop().create_future()
        return future

    async def cpu_s(self) -> float:
        """Return the CPU time of both processes so far."""
        other: float = await self.ask(_CPU, frame(("cpu",)))
        return other + time.process_time()

    async def time(self, connections: int, requests: int) -> Figures:
        """Send requests, each connection one after the other."""
        seconds: list[float] = []

        async def client(numbers: range) -> None:
            for number in numbers:
                began = time.perf_counter()
                await self.ask(number, _request(number))
                seconds.append(time.perf_counter() - began)

        before = await self.cpu_s()
        await asyncio.gather(*(client(range(k, requests, connections)) for k in range(connections)))
        cpu_s = await self.cpu_s() - before
        return Figures(1e6 * statistics.median(seconds), 1e6 * cpu_s / requests)


class Figures(NamedTuple):
    """Of one round.

    Attributes:
        round_trip_us: The median, microseconds.
        cpu_us: Of both processes, for each request.
    """

    round_trip_us: float
    cpu_us: float


async def _round(kind: str, requests: int) -> dict[int, Figures]:
    """Return figures by the number of connections."""
    with ends_of(kind) as ends:
        asking = _Asking()
        told = (kind, ends.path, *map(str, ends.fds))
        command = [sys.executable, "-m", "bench.channel", "--answer", *told]
        fds = ends.fds[1:] if kind == SOCKET else ends.fds
        with subprocess.Popen(command, pass_fds=[fd for fd in fds if fd]) as process:
            try:
                hello = asking.expected(_HELLO)
                asking.channel = await ends.open(True, asking.received)
                await hello
                await asking.time(1, _WARM)
                return {n: await asking.time(n, requests) for n in _CONNECTIONS}
            finally:
                process.terminate()


def _pickling(requests: int) -> Figures:
    """Return what is pickled and unpickled for each request, by this process alone."""
    vector, frames = torch.zeros(384), Frames()
    began = time.process_time()
    for number in range(requests):
        for data in (_request(number), frame(("answered", number, vector))):
            for _ in frames.feed(data):
                pass
    cpu_us = 1e6 * (time.process_time() - began) / requests
    return Figures(cpu_us, cpu_us)


def main() -> None:
    """Time every channel."""
    options = report.parser(__doc__)
    options.add_argument("--answer", nargs=4, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.answer:
        kind, path, *fds = chosen.answer
        _answer(Ends(kind, path, (int(fds[0]), int(fds[1]))))
        return
    rounds, requests = (2, 1000) if chosen.quick else (7, 5000)
    kinds = [SOCKET, MEMORY]
    if importlib.util.find_spec("zmq") is None:
        print("pyzmq is not installed, and so not measured", file=sys.stderr)
    else:
        kinds.append(PYZMQ)
    found: dict[str, list[dict[int, Figures]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            found[kind].append(uvloop.run(_round(kind, requests)))
    pickled = [_pickling(requests) for _ in range(rounds)]
    rows: list[list[object]] = [["pickling alone", "", "", _middle(pickled, 1)]]
    for kind in kinds:
        for n in _CONNECTIONS:
            figures = [one[n] for one in found[kind]]
            rows.append([kind, n, _middle(figures, 0), _middle(figures, 1)])
    columns = ["channel", "under way", "round trip us", "CPU us"]
    report.show(f"a request and its answer, {rounds} rounds: median (range)", columns, rows)
    report.finish({"channel": found, "pickling": pickled}, chosen.json)


def _middle(figures: list[Figures], field: int) -> str:
    values = [one[field] for one in figures]
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()

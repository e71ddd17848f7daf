"""What one request costs the event loop: CPU time by stage, and calls of functions.

The server runs in this process, wired and served as `rheostat serve` does it, its log included; the
client is a process of its own. The model computes on another thread or in another process, and only
the time of the event loop's thread is counted. Totals are measured without the clocks of stages.

Calls are those that the interpreter's profiler counts, of Python's functions and of C's. They do
not depend on the machine, nor on what else runs there.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import cProfile
import json
import os
import pstats
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import uvloop
from fastapi import FastAPI

from bench import report
from bench.http.stages import OTHER, STAGES, StageClock, watching
from bench.limit.cases import Content, image_cases, random_texts
from bench.peers.process import HOST
from server import process
from server.app import create_app
from server.http import addresses, garbage
from server.http.serving import Server, configured
from server.observe import logs
from server.settings import Settings

_NUM_CONTENTS = 256
_MANY = 16  # connections
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
        """Return the median of a stage; of all others, what the stages leave of the total."""
        if name != OTHER:
            return median(one.get(name, 0.0) for one in self.stages)
        return median(self.alone) - sum(self.stage(known) for known in STAGES)


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


async def measure(client: Client, effort: Effort, cost: Cost) -> None:
    """Add one round to what a kind of request costs; call it on the event loop."""
    for connections, totals in ((1, cost.alone), (_MANY, cost.many)):
        start = time.thread_time_ns()
        await client.ask(connections, effort.requests)
        totals.append((time.thread_time_ns() - start) / effort.requests / 1e3)
    clock = StageClock()
    with watching(clock):
        await client.ask(1, effort.requests)
    cost.stages.append({n: ns / effort.requests / 1e3 for n, ns in clock.nanoseconds.items()})


async def count(client: Client, effort: Effort, cost: Cost) -> None:
    """Count the calls of a kind of request."""
    profiler = cProfile.Profile(time.thread_time)
    profiler.enable()
    await client.ask(1, effort.requests)
    profiler.disable()
    found: Mapping[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    cost.calls = sum(calls for _, calls, *_ in found.values()) / effort.requests
    cost.functions = sorted(
        (
            (
                f"{_IN_PATH.sub('', file)}:{name}" if line else name,
                calls / effort.requests,
                1e6 * own_s / effort.requests,
            )
            for (file, line, name), (_, calls, own_s, *_) in found.items()
        ),
        key=lambda one: -one[2],
    )


@asynccontextmanager
async def serving(app: FastAPI, settings: Settings) -> AsyncIterator[int]:
    """Serve as `server.http.serving.serve` does, on the loop at hand; yields the port."""
    with addresses.bound(settings.host, 0)[0] as listening:
        started = asyncio.Event()
        server = Server(configured(app, settings), app.state.drain, 0, 5, started.set)
        garbage.settle()
        task = asyncio.create_task(server.serve([listening]))
        await asyncio.wait(
            [task, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


def requests_of(text: Path, image: Path) -> dict[str, list[bytes]]:
    """Return requests by kind: one short text, and one image for one task."""
    model = json.loads((text / "manifest.json").read_text())["name"]
    texts = random_texts(text, _NUM_CONTENTS)
    case = image_cases(image, _NUM_CONTENTS)[1]
    embeddings = [{"model": model, "input": one, "encoding_format": "base64"} for one in texts]
    return {
        "/v1/embeddings": [_request("/v1/embeddings", json.dumps(b).encode()) for b in embeddings],
        "/v1/infer": [_request("/v1/infer", case.body(one)) for one in _encoded(case.contents)],
    }


def _encoded(contents: Sequence[Content]) -> list[Content]:
    return [one for one in contents if isinstance(one, bytes)]


def _request(path: str, body: bytes) -> bytes:
    """Return a request with the header fields that most clients send."""
    fields = {
        "Host": HOST,
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Connection": "keep-alive",
        "User-Agent": "python-httpx/0.28.1",
        "Content-Length": str(len(body)),
        "Content-Type": "application/json",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def run(
    app: FastAPI, settings: Settings, effort: Effort, kinds: Mapping[str, list[bytes]]
) -> dict[str, Cost]:
    """Serve, and return what each kind of request costs; kinds take turns in every round."""
    found = {kind: Cost() for kind in kinds}
    async with serving(app, settings) as port:
        clients = {kind: await Client.start(port, sent) for kind, sent in kinds.items()}
        try:
            for client in clients.values():
                await client.ask(_MANY, effort.requests)  # to warm up
            for _ in range(effort.rounds):
                for kind, client in clients.items():
                    await measure(client, effort, found[kind])
            for kind, client in clients.items():
                await count(client, effort, found[kind])
        finally:
            for client in clients.values():
                await client.close()
    return found


def main() -> None:
    """Measure and print."""
    options = _options()
    effort = Effort(3, 200) if options.quick else Effort(9, 400)
    process.tune()
    torch.set_num_threads(1)
    # The log is written as usual, to where nobody reads it.
    with tempfile.TemporaryDirectory() as scratch, Path(os.devnull).open("w") as nowhere:
        folder = Path(scratch) / "models"
        folder.mkdir()
        for model in (options.text, options.image):
            (folder / model.name).symlink_to(model.resolve())
        settings = Settings.of(
            models=folder,
            host=HOST,
            backend="torch",
            num_threads=1,
            profiles=options.profiles,
            database=f"sqlite:///{scratch}/clients.db",
        )
        app = create_app(settings)
        logs.configure(settings.log_format, settings.log_level, nowhere)
        kinds = requests_of(options.text, options.image)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(run(app, settings, effort, kinds))
    _show(found, options.functions)
    figures = {
        kind: {
            "alone_us": cost.alone,
            "many_us": cost.many,
            "calls": cost.calls,
            "stages_us": {name: cost.stage(name) for name in (*STAGES, OTHER)},
        }
        for kind, cost in found.items()
    }
    report.finish({"http": figures}, options.json)


def _show(found: Mapping[str, Cost], functions: int) -> None:
    rows: list[list[object]] = [
        [name, *(f"{cost.stage(name):.0f}" for cost in found.values())] for name in (*STAGES, OTHER)
    ]
    for name, values in (
        ("total, one connection", [cost.alone for cost in found.values()]),
        (f"total, {_MANY} connections", [cost.many for cost in found.values()]),
    ):
        spread = (f"{median(one):.0f} ({min(one):.0f} to {max(one):.0f})" for one in values)
        rows.append([name, *spread])
    rows.append(["calls of functions", *(f"{cost.calls:.0f}" for cost in found.values())])
    report.show("CPU time of the event loop, us a request", ["stage", *found], rows)
    for kind, cost in found.items():
        if functions:
            report.show(
                f"{kind}: functions by their own time under the profiler",
                ["function", "calls", "us"],
                [[n, f"{c:.2f}", f"{us:.1f}"] for n, c, us in cost.functions[:functions]],
            )


def _options() -> argparse.Namespace:
    options = report.parser(__doc__)
    for name, folder in (("text", report.ZOO_TEXT), ("image", report.ZOO)):
        options.add_argument(
            f"--{name}",
            type=Path,
            default=folder,
            metavar="DIR",
            help="checkpoint to serve (default: the one shipped)",
        )
    options.add_argument(
        "--profiles",
        type=Path,
        default=Path.home() / ".cache" / "rheostat" / "http",
        metavar="DIR",
        help="the server's measured times (default: %(default)s)",
    )
    options.add_argument(
        "--functions", type=int, default=0, metavar="N", help="also show the N dearest functions"
    )
    return options.parse_args()


if __name__ == "__main__":
    main()

"""Well-behaved clients: do they notice that something else is broken?

A process of its own, so that what delays it is the server and not who makes the fault. Each client
sends a small request when it is due, whatever became of the last one; latency counts from then.
Every vector is compared with the one that the same server gave for the same text at the start.

As a process it takes a port, a model's name and perhaps a key, prints a line when it has begun,
takes the name of a phase from each line of its input, and at the end of that prints what it saw.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.peers.connection import Connection
from bench.peers.process import HOST, PATH, ServerError

CLIENTS, EVERY_S = 4, 0.1
PHASES = ("before", "during", "after")
_LIMIT_S = 20.0
_TOLERANCE = 1e-4
_TEXTS = (
    "one set of weights",
    "every compute budget",
    "a small request, like many others",
    "again",
)


@dataclass
class Seen:
    """What became of the requests that were due in one phase.

    Attributes:
        latencies_ms: Of those answered with the right vector.
        others: All else, in words.
    """

    latencies_ms: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def num_sent(self) -> int:
        """All requests."""
        return len(self.latencies_ms) + self.others.total()

    @property
    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {"latencies_ms": self.latencies_ms, "others": dict(self.others)}

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the latency; NaN if nothing was answered."""
        found = self.latencies_ms
        return float(np.percentile(found, percent)) if found else float("nan")


class Witness:
    """The process, as who started it sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seen = {phase: Seen() for phase in PHASES}

    def begin(self, phase: str) -> None:
        """Count what is due from now on to a phase."""
        assert self._process.stdin is not None
        print(phase, file=self._process.stdin, flush=True)

    def end(self) -> None:
        """Wait for what is under way and take over what was seen."""
        output, _ = self._process.communicate()
        for phase, found in json.loads(output).items():
            self.seen[phase] = Seen(found["latencies_ms"], Counter(found["others"]))


@contextmanager
def witness(port: int, model: str, key: str | None) -> Iterator[Witness]:
    """Start the clients; yield once they know their vectors.

    Raises:
        ServerError: If the server does not answer them.
    """
    command = [sys.executable, "-m", __name__, str(port), model, *([key] if key else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise ServerError("the server does not answer the witness")
            yield Witness(process)
        finally:
            process.kill()


class _Clients:
    def __init__(self, port: int, model: str, key: str | None) -> None:
        self._port = port
        self._requests = [_request(model, text, key) for text in _TEXTS]
        self._vectors: list[Any] = []
        self._phase = PHASES[0]
        self._is_over = False
        self.seen = {phase: Seen() for phase in PHASES}

    async def run(self) -> None:
        connection = await self._connected()
        for request in self._requests:
            self._vectors.append(_vector(await connection.ask(request)))
        connection.close()
        print("ready", flush=True)
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(number))
            while line := await asyncio.to_thread(sys.stdin.readline):
                self._phase = line.strip()
            self._is_over = True

    async def _client(self, number: int) -> None:
        clock = asyncio.get_running_loop().time
        due = clock() + number * EVERY_S / CLIENTS
        connection: Connection | None = None
        while True:
            await asyncio.sleep(max(0.0, due - clock()))
            if self._is_over:
                break
            seen, which = self.seen[self._phase], number % len(_TEXTS)
            try:
                async with asyncio.timeout(_LIMIT_S):
                    connection = connection or await self._connected()
                    answer = await connection.ask(self._requests[which])
            except TimeoutError:
                seen.others[f"no answer within {_LIMIT_S:g} s"] += 1
            except (ServerError, OSError) as error:
                seen.others[str(error)] += 1
            else:
                if np.allclose(_vector(answer), self._vectors[which], atol=_TOLERANCE):
                    seen.latencies_ms.append(1000 * (clock() - due))
                else:
                    seen.others["another vector"] += 1
                number, due = number + 1, due + EVERY_S
                continue
            if connection is not None:
                connection.close()
                connection = None
            number, due = number + 1, due + EVERY_S

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, HOST, self._port))[1]


def _request(model: str, text: str, key: str | None) -> bytes:
    # Strict: under load others may get smaller subnets, and so other vectors.
    body = json.dumps({"model": model, "input": text, "budget": {"strict": True}})
    head = [f"POST {PATH} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body)}", *([f"x-api-key: {key}"] if key else [])]
    return "\r\n".join([*head, "", body]).encode()


def _vector(answer: bytes) -> Any:
    return np.array(json.loads(answer)["data"][0]["embedding"])


def _main(port: str, model: str, key: str | None = None) -> None:
    clients = _Clients(int(port), model, key)
    asyncio.run(clients.run())
    print(json.dumps({phase: found.record for phase, found in clients.seen.items()}))


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""The engine's process is killed under load, again and again."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.faults.arena import AbsentError, Arena, Row, Server
from bench.peers.process import HOST, PATH

_CLIENTS = 8
_BACK_S = 5.0  # the longest until requests are answered again
_LIMIT_S = 30.0
_PAUSE_S = 0.1  # of a refused client, far less than it is told: so that it sees who comes back


def run(arena: Arena) -> Iterator[Row]:
    """Kill it every few seconds while clients ask all the time."""
    if not Path("/proc/self/task").exists():
        raise AbsentError("processes are found as Linux shows them")
    every_s, kills = (4.0, 2) if arena.is_quick else (10.0, 6)
    with arena.server("--http-workers", "1") as server:
        found = asyncio.run(_Killing(server).run(every_s, kills))
        row = Row("engine", is_alive=True, figures=found.figures)
        row.expect(not found.others, f"200, or 503 with Retry-After, but {dict(found.others)}")
        row.expect(len(found.back_s) == kills, f"{kills} times back, not {len(found.back_s)}")
        row.expect(
            max(found.back_s, default=0.0) <= _BACK_S, f"back within {_BACK_S:g} s each time"
        )
        back = ", ".join(f"{seconds:.1f}" for seconds in found.back_s)
        row.faulty = (
            f"killed {kills} times under load, one time in {every_s:g} s: {found.answered} x 200, "
            f"{found.refused} x 503 with Retry-After; answers again after {back} s"
        )
    yield row


class _Killing:
    """Clients that go on, and who kills the engine.

    Attributes:
        answered: Requests, with 200.
        refused: With 503 and when to come back.
        others: All else, in words.
        back_s: From each kill to the first answer to what was asked after it.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_over = False
        self._killed: float | None = None  # and nothing was answered since
        self.answered = self.refused = 0
        self.others: Counter[str] = Counter()
        self.back_s: list[float] = []

    @property
    def figures(self) -> dict[str, object]:
        """For programs."""
        counts = {"answered": self.answered, "refused": self.refused}
        return {**counts, "others": dict(self.others), "back_s": self.back_s}

    async def run(self, every_s: float, kills: int) -> _Killing:
        """Kill as often as this, at these intervals."""
        address = f"http://{HOST}:{self._server.port}"
        async with (
            httpx.AsyncClient(base_url=address, timeout=_LIMIT_S) as http,
            asyncio.TaskGroup() as clients,
        ):
            for number in range(_CLIENTS):
                clients.create_task(self._client(http, number))
            for _ in range(kills):
                await asyncio.sleep(every_s)
                os.kill(_engine(self._server.process.session), signal.SIGKILL)
                self._killed = time.perf_counter()
            await asyncio.sleep(every_s)
            self._is_over = True
        return self

    async def _client(self, http: httpx.AsyncClient, own: int) -> None:
        for number in itertools.count():
            if self._is_over:
                return
            asked = time.perf_counter()
            text = f"no answer is known to request {number} of client {own}"
            try:
                answer = await http.post(PATH, json={"model": self._server.model, "input": text})
            except httpx.HTTPError as error:
                self.others[repr(error)] += 1
                continue
            self._note(answer, asked)
            if answer.status_code != 200:
                await asyncio.sleep(_PAUSE_S)

    def _note(self, answer: httpx.Response, asked: float) -> None:
        if answer.status_code == 200:
            self.answered += 1
            if self._killed is not None and asked > self._killed:
                self.back_s.append(time.perf_counter() - self._killed)
                self._killed = None
        elif answer.status_code == 503 and "retry-after" in answer.headers:
            self.refused += 1
        else:
            self.others[f"{answer.status_code}: {answer.text[:100]}"] += 1


def _engine(first: int) -> int:
    """Return the process of the engine: the only grandchild where one process answers HTTP."""
    (found,) = [grandchild for child in _children(first) for grandchild in _children(child)]
    return found


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

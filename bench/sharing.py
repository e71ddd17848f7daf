"""Two clients on one server: what one's bulk job does to the other's short queries.

A bulk client keeps several requests of many texts on the way. Beside it two others send one short
query after the other: one of the same class, one of a higher class. Nobody has a latency budget.
Measured are how many of the short queries are let in, and how long they take: as milliseconds, and
as a multiple of what one batch of the bulk job runs.

Then the bulk client sends more than is let in, from many connections, each of which waits as long
as it is told before it comes back. What it was told first is compared with how long it was until it
was let in; and what is answered with what the server does without refusals.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np

from bench import report
from bench.peers.process import HOST, PATH, Launch, Running, running
from bench.trace import texts
from server import catalog

_SHORT_TOKENS, _BULK_TOKENS = 16, 32
_NUM_TEXTS = 1024
_GAP_S = 0.05  # between an answer to a short query and the next one
_HIGHER, _USUAL = 0, 1  # classes
_TIMEOUT_S = 120.0
_MOST_BATCHES = 3.0  # what a short query may take
_KEPT = 0.5, 2.0  # told by true, at least and at most


class Effort(NamedTuple):
    """Seconds of each part, texts in each bulk request, bulk requests that come when refused."""

    seconds: float
    bulk_texts: int
    returning: int


_QUICK, _FULL = Effort(4.0, 64, 24), Effort(20.0, 256, 32)


class Asked(NamedTuple):
    """One request.

    Attributes:
        status: Of its answer.
        seconds: Until then.
        run_s: What its batch ran, as the server says; 0 if it did not.
        retry_s: After which it was told to come back; 0 if it was not.
    """

    status: int
    seconds: float
    run_s: float
    retry_s: float


@dataclass
class Short:
    """What became of one client's short queries.

    Attributes:
        sent: All.
        answered: With 200.
        p50_ms: Of those answered.
        p99_ms: Likewise.
        batches: p99 as a multiple of a batch of the bulk job; None without one.
    """

    sent: int
    answered: int
    p50_ms: float
    p99_ms: float
    batches: float | None = None


@dataclass
class Returning:
    """What those were told who were refused.

    Attributes:
        refused: Requests that were refused at first.
        told_by_true: What each was told first, by the time until it was let in.
        let_in_at_once: Part of them that came back once.
    """

    refused: int = 0
    told_by_true: list[float] = field(default_factory=list)
    let_in_at_once: float = 0.0

    @property
    def kept(self) -> float:
        """Part that was told the truth, within a factor of two."""
        within = [_KEPT[0] <= ratio <= _KEPT[1] for ratio in self.told_by_true]
        return sum(within) / len(within) if within else 1.0


def main() -> None:
    """Measure and print."""
    options = report.parser(__doc__)
    options.add_argument("--model", type=Path, default=report.ZOO_TEXT, metavar="DIR")
    options.add_argument("--backend", default="torch", choices=("auto", "torch", "onnx"))
    options.add_argument("--bulk-texts", type=int, help="in each bulk request: 256; --quick: 64")
    options.add_argument("--bulk-requests", type=int, default=4, help="on the way at once")
    options.add_argument("--returning", type=int, help="bulk requests, when refused: 32; 24")
    options.add_argument("--seconds", type=float, help="of each part: 20; --quick: 4")
    chosen = options.parse_args()
    # Servers are stopped on the way out of an exception; the default would leave them running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    effort = _QUICK if chosen.quick else _FULL
    effort = Effort(*(getattr(chosen, name) or usual for name, usual in effort._asdict().items()))
    served = catalog.load(chosen.model).choose(None)
    short = texts.make(served, _SHORT_TOKENS, _NUM_TEXTS, seed=0)
    bulk = texts.make(served, _BULK_TOKENS, _NUM_TEXTS, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        launch = _launch(chosen.model, chosen.backend, Path(folder))
        body = f'{{"model": "{served.name}", "input": "a"}}'.encode()
        with running(launch, 1, body) as server:
            load = _Load(server, served.name, short, bulk, effort.bulk_texts)
            together = load.beside(chosen.bulk_requests, effort.seconds)
            alone, beside, batch_s, bulk_per_s = asyncio.run(together)
            back = load.returning(effort.returning, effort.seconds)
            returning, returning_per_s = asyncio.run(back)
    _show(alone, beside, batch_s, returning, returning_per_s / bulk_per_s)
    figures = {
        "batch_ms": 1000 * batch_s,
        "alone": asdict(alone),
        "beside": {name: asdict(one) for name, one in beside.items()},
        "returning": {**asdict(returning), "kept": returning.kept},
        "texts_per_s": {"let_in": bulk_per_s, "refused": returning_per_s},
    }
    report.finish({"sharing": figures}, chosen.json)
    if any(one.answered < one.sent for one in beside.values()):
        sys.exit("a short query was not answered")


def _launch(model: Path, backend: str, folder: Path) -> Launch:
    options = f"--port {{port}} --num-threads 1 --log-level warning --backend {backend}"
    command = (sys.executable, "-m", "server", "serve", *options.split())
    folders = ("--models", str(model.resolve()), "--profiles", str(folder / "profiles"))
    database = {"RHEOSTAT_DATABASE": f"sqlite:///{folder / 'clients.db'}"}
    return Launch((*command, *folders), database)


class _Load:
    def __init__(
        self,
        server: Running,
        model: str,
        short: Sequence[str],
        bulk: Sequence[str],
        bulk_texts: int,
    ) -> None:
        self._url = f"http://{HOST}:{server.port}"
        self._model, self._short, self._bulk = model, short, bulk
        self._bulk_texts = bulk_texts
        classes = {"bulk": _USUAL, "same class": _USUAL, "higher class": _HIGHER}
        with httpx.Client(base_url=self._url, timeout=_TIMEOUT_S) as admin:
            for client, priority in classes.items():
                name = client.replace(" ", "-")
                admin.put(f"/v1/clients/{name}", json={"priority": priority}).raise_for_status()
            # The first key closes the server to those without one.
            scopes = {"admin": ["admin"], **{client: ["infer"] for client in classes}}
            self._keys: dict[str, str] = {}
            for client, scope in scopes.items():
                owner = {"client": client.replace(" ", "-")} if client in classes else {}
                made = admin.post("/v1/keys", json={"scopes": scope, **owner})
                made.raise_for_status()
                self._keys[client] = made.json()["key"]
                admin.headers["x-api-key"] = self._keys["admin"]

    async def beside(
        self, num_bulk: int, seconds: float
    ) -> tuple[Short, dict[str, Short], float, float]:
        """Return short queries alone, those beside bulk, a batch's seconds and bulk texts/s."""
        alone = _counted(await self._shorts("same class", seconds / 2))
        until = time.perf_counter() + seconds
        others = ("same class", "higher class")
        bulk = [asyncio.create_task(self._bulks(until)) for _ in range(num_bulk)]
        await asyncio.sleep(seconds / 10)
        shorts = [self._shorts(name, seconds * 0.8) for name in others]
        found = await asyncio.gather(*shorts)
        started = time.perf_counter()
        answers = [one for done in await asyncio.gather(*bulk) for one in done]
        answered = [one for one in answers if one.status == 200]
        # A bulk request tells its last batch, which may be a small one.
        runs = [one.run_s for one in (*answered, *found[0], *found[1]) if one.status == 200]
        batch_s = float(np.percentile(runs, 90))
        whole_s = seconds + time.perf_counter() - max(started, until)
        beside = {name: _counted(each, batch_s) for name, each in zip(others, found, strict=True)}
        return alone, beside, batch_s, len(answered) * self._bulk_texts / whole_s

    async def returning(self, num_bulk: int, seconds: float) -> tuple[Returning, float]:
        """Return what refused requests were told, and the texts/s that were answered."""
        found, once, answered = Returning(), 0, 0
        started = time.perf_counter()

        async def client(number: int) -> None:
            nonlocal once, answered
            async with self._client("bulk") as http:
                while time.perf_counter() < started + seconds:
                    first: float | None = None
                    since, times = 0.0, 0
                    while True:
                        sent = time.perf_counter()
                        asked = await self._ask(http, self._bulk, self._bulk_texts, number)
                        if asked.status != 429:
                            break
                        times += 1
                        if first is None:
                            # The answer that refuses says from when its time counts.
                            first, since = asked.retry_s, sent + asked.seconds
                        await asyncio.sleep(asked.retry_s)
                    answered += asked.status == 200
                    if first is not None:
                        found.refused += 1
                        once += times == 1
                        found.told_by_true.append(first / max(sent - since, 1e-9))

        await asyncio.gather(*(client(number) for number in range(num_bulk)))
        found.let_in_at_once = once / max(1, found.refused)
        return found, answered * self._bulk_texts / (time.perf_counter() - started)

    async def _bulks(self, until: float) -> list[Asked]:
        found: list[Asked] = []
        async with self._client("bulk") as http:
            while time.perf_counter() < until:
                found.append(await self._ask(http, self._bulk, self._bulk_texts, len(found)))
                await asyncio.sleep(found[-1].retry_s)
        return found

    async def _shorts(self, client: str, seconds: float) -> list[Asked]:
        found: list[Asked] = []
        until = time.perf_counter() + seconds
        async with self._client(client) as http:
            while time.perf_counter() < until:
                found.append(await self._ask(http, self._short, 1, len(found)))
                await asyncio.sleep(_GAP_S)
        return found

    def _client(self, name: str) -> httpx.AsyncClient:
        headers = {"x-api-key": self._keys[name]}
        return httpx.AsyncClient(base_url=self._url, headers=headers, timeout=_TIMEOUT_S)

    async def _ask(
        self, http: httpx.AsyncClient, lines: Sequence[str], count: int, number: int
    ) -> Asked:
        first = number * count
        some = [lines[(first + i) % len(lines)] for i in range(count)]
        started = time.perf_counter()
        body = {"model": self._model, "input": some, "encoding_format": "base64"}
        answer = await http.post(PATH, json=body)
        seconds = time.perf_counter() - started
        run_s = 0.0
        if answer.status_code == 200:
            run_s = answer.json()["receipt"]["milliseconds"]["run"] / 1000
        retry_s = float(answer.headers.get("retry-after-ms", 0)) / 1000
        return Asked(answer.status_code, seconds, run_s, retry_s)


def _counted(asked: Sequence[Asked], batch_s: float | None = None) -> Short:
    times = [1000 * one.seconds for one in asked if one.status == 200]
    p50, p99 = (float(np.percentile(times, q)) if times else 0.0 for q in (50, 99))
    batches = None if batch_s is None else p99 / (1000 * batch_s)
    return Short(len(asked), len(times), p50, p99, batches)


def _show(
    alone: Short, beside: dict[str, Short], batch_s: float, returning: Returning, part: float
) -> None:
    report.show(
        f"Short queries; a batch of the bulk job runs {1000 * batch_s:.0f} ms",
        ("", "sent", "answered", "p50 ms", "p99 ms", f"batches (at most {_MOST_BATCHES:g})"),
        [
            (name, one.sent, one.answered, one.p50_ms, one.p99_ms, one.batches or "-")
            for name, one in {"alone": alone, **beside}.items()
        ],
    )
    told = returning.told_by_true or [0.0]
    low, middle, high = (float(q) for q in np.percentile(told, [5, 50, 95]))
    report.show(
        "Bulk requests that were refused at first",
        ("refused", "told by true, p5", "p50", "p95", "within 2", "let in at once", "texts/s kept"),
        [(returning.refused, low, middle, high, returning.kept, returning.let_in_at_once, part)],
    )


if __name__ == "__main__":
    main()

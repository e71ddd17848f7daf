"""Hours of mixed traffic in minutes: does the server's memory grow, does anything fail?

A real server process gets images, embeddings of many lengths and budgets, rankings with cascades,
plans, faulty requests and requests whose clients leave. Its resident memory (the process and its
children) is sampled and a line fitted by least squares, over the minutes asked for. They begin
after a warm-up: memory that is still being filled then, by caches with a bound, is no leak. With
ONNX Runtime sessions are built for a dozen minutes. The standard error takes samples for
independent, which they are not quite: read two of them as one. With ``--quick`` everything is still
being filled: it shows that all is answered, not that nothing leaks.

With ``--reload`` a model is reloaded every ten seconds meanwhile, and no request may fail by it.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from bench import report
from bench.peers.process import HOST, Launch, Running, running
from server import catalog

_CLIENTS = 6
_SAMPLE_S, _RELOAD_S = 0.5, 10.0
_WARM = 0.25  # of the minutes asked for
_LEAVE_S = 0.004
_TIMEOUT_S = 60.0
_FRACTIONS = (0.2, 0.35, 0.5, 0.8, 1.0)
_WORDS = ("one", "set", "of", "weights", "serves", "every", "budget", "again")


@dataclass
class Seen:
    """What happened.

    Attributes:
        statuses: Of answers, by kind of request.
        unexpected: Answers with another status than their kind should have, in words.
        reloads: Of reloads, by status.
        memory: Pairs of seconds since the start and megabytes.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    reloads: Counter[int] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Slope:
    """A line through the memory's samples.

    Attributes:
        mb_per_min: How fast memory grows.
        stderr: Standard error of that.
        first_mb: At the first sample of the fit.
        last_mb: At the last one.
        samples: Fitted.
    """

    mb_per_min: float
    stderr: float
    first_mb: float
    last_mb: float
    samples: int


def slope(memory: Sequence[tuple[float, float]]) -> Slope:
    """Fit a line by ordinary least squares.

    Args:
        memory: Pairs of seconds and megabytes; at least three.
    """
    seconds, megabytes = np.array(memory).T
    minutes = seconds / 60
    centred = minutes - minutes.mean()
    spread = float(centred @ centred)
    found = float(centred @ megabytes) / spread
    rest = megabytes - megabytes.mean() - found * centred
    stderr = math.sqrt(float(rest @ rest) / (len(memory) - 2) / spread)
    return Slope(found, stderr, float(megabytes[0]), float(megabytes[-1]), len(memory))


@dataclass(frozen=True)
class Traffic:
    """Makes requests.

    Attributes:
        image_model: Name of a model that takes images.
        text_model: Name of a model that takes text.
        rng: Decides everything.
    """

    image_model: str
    text_model: str
    rng: random.Random

    def next(self) -> tuple[str, int, str, dict[str, Any]]:
        """Return a kind, the status that it should get, a path and a body."""
        kinds = ("infer", "embeddings", "rerank", "plan", "invalid", "infeasible", "cancelled")
        kind = self.rng.choices(kinds, (15, 40, 10, 10, 8, 7, 10))[0]
        budget = {"fraction": self.rng.choice(_FRACTIONS)}
        texts = [self._text() for _ in range(self.rng.randint(1, 4))]
        embedding = {"model": self.text_model, "input": texts, "truncate": "right"}
        match kind:
            case "infer":
                body = {"model": self.image_model, "image": self._image(), "budget": budget}
                return kind, 200, "/v1/infer", body
            case "rerank":
                cascade = {"depth": 1, "keep": 2}
                documents = [self._text() for _ in range(self.rng.randint(4, 10))]
                body = {"query": self._text(), "documents": documents, "cascade": cascade}
                body |= {"model": self.text_model, "truncate": "right"}
                return kind, 200, "/v1/rerank", {**body, "budget": {"strict": True}}
            case "plan":
                return kind, 200, "/v1/plan", {"model": self.image_model, "budget": budget}
            case "invalid":
                return kind, 400, "/v1/embeddings", {**embedding, "nonsense": self._text()}
            case "infeasible":
                return kind, 422, "/v1/plan", {"model": self.image_model, "budget": {"flops": 1}}
        return kind, 200, "/v1/embeddings", {**embedding, "budget": budget}

    def _text(self) -> str:
        return " ".join(self.rng.choices(_WORDS, k=int(2 ** self.rng.uniform(0, 6.5))))

    def _image(self) -> str:
        size = self.rng.choice(((32, 32), (64, 48), (300, 200)))
        pixels = self.rng.randbytes(size[0] * size[1] * 3)
        buffer = io.BytesIO()
        Image.frombytes("RGB", size, pixels).save(buffer, self.rng.choice(("PNG", "JPEG", "WEBP")))
        return base64.b64encode(buffer.getvalue()).decode()


async def soak(server: Running, traffic: Traffic, seconds: float, reload: bool) -> Seen:
    """Send for some time and sample meanwhile."""
    seen = Seen()
    start = time.monotonic()
    url = f"http://{HOST}:{server.port}"
    limits = httpx.Limits(max_connections=2 * _CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits) as http:
        aside = [asyncio.create_task(_sample(server, seen, start))]
        if reload:
            aside.append(asyncio.create_task(_reload(http, traffic, seen)))
        async with asyncio.TaskGroup() as clients:
            for _ in range(_CLIENTS):
                clients.create_task(_client(http, traffic, seen, start + seconds))
        for task in aside:
            task.cancel()
        ended = await asyncio.gather(*aside, return_exceptions=True)
        if fault := next((e for e in ended if not isinstance(e, asyncio.CancelledError)), None):
            raise RuntimeError(f"watching ended: {fault!r}")
    return seen


async def _client(http: httpx.AsyncClient, traffic: Traffic, seen: Seen, until: float) -> None:
    while time.monotonic() < until:
        kind, expected, path, body = traffic.next()
        try:
            if kind == "cancelled":
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LEAVE_S):
                        await http.post(path, json=body)
                seen.statuses[kind, 0] += 1
                continue
            answer = await http.post(path, json=body)
        except httpx.HTTPError as error:
            seen.unexpected[f"{kind}: {error!r}"] += 1
            continue
        seen.statuses[kind, answer.status_code] += 1
        if answer.status_code != expected:
            seen.unexpected[f"{kind}: {answer.status_code} {answer.text[:120]}"] += 1


async def _sample(server: Running, seen: Seen, start: float) -> None:
    while True:
        seen.memory.append((time.monotonic() - start, resident_mb(server.session)))
        await asyncio.sleep(_SAMPLE_S)


async def _reload(http: httpx.AsyncClient, traffic: Traffic, seen: Seen) -> None:
    while True:
        await asyncio.sleep(_RELOAD_S)
        answer = await http.post(f"/v1/models/{traffic.text_model}/reload")
        seen.reloads[answer.status_code] += 1
        if answer.status_code not in (200, 404):
            seen.unexpected[f"reload: {answer.status_code} {answer.text[:120]}"] += 1


def resident_mb(session: int) -> float:
    """Return the memory of all processes of a session, in megabytes; Linux only."""
    kilobytes = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # After the name, which may hold anything: state, parent, group, session, ...
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                lines = (path.parent / "status").read_text().splitlines()
                # None of a process that has ended and was not yet waited for.
                kilobytes += sum(int(x.split()[1]) for x in lines if x.startswith("VmRSS"))
    return kilobytes / 1000


def main() -> None:
    """Soak one server and print what it used and what failed."""
    options = report.parser(__doc__)
    options.add_argument("minutes", type=float, nargs="?", help="default: 10; --quick: 0.28")
    options.add_argument("--warm", type=float, help="minutes before those; default: a quarter")
    options.add_argument("--models", type=Path, default=report.ZOO.parent, metavar="DIR")
    options.add_argument("--reload", action="store_true", help="reload a model every 10 s")
    options.add_argument("--backend", default="auto", choices=("auto", "torch", "onnx"))
    chosen = options.parse_args()
    minutes = chosen.minutes or (0.28 if chosen.quick else 10.0)
    warm = _WARM * minutes if chosen.warm is None else chosen.warm
    if minutes * 60 < 10 * _SAMPLE_S:
        options.error(f"argument minutes: {minutes:g} is too short to fit a line")
    names = {one.inputs.has_length: one.name for one in catalog.load(chosen.models).values()}
    if set(names) != {True, False}:
        options.error(f"argument --models: {chosen.models} must hold an image and a text model")
    traffic = Traffic(names[False], names[True], random.Random(0))
    with tempfile.TemporaryDirectory() as scratch:
        launch = _launch(chosen.models, chosen.backend, Path(scratch))
        first = json.dumps({"model": traffic.text_model, "input": "a"}).encode()
        with running(launch, 1, first) as server:
            seen = asyncio.run(soak(server, traffic, 60 * (warm + minutes), chosen.reload))
    fitted = slope([one for one in seen.memory if one[0] >= 60 * warm])
    _show(seen, fitted, warm, minutes)
    figures = {
        "warm_minutes": warm,
        "minutes": minutes,
        "slope_mb_per_min": fitted.mb_per_min,
        "slope_stderr": fitted.stderr,
        "first_mb": fitted.first_mb,
        "last_mb": fitted.last_mb,
        "statuses": {f"{kind} {status}": n for (kind, status), n in seen.statuses.items()},
        "unexpected": dict(seen.unexpected),
        "reloads": {str(status): n for status, n in seen.reloads.items()},
        "memory": seen.memory,
    }
    report.finish({"soak": figures}, chosen.json)
    if seen.unexpected:
        sys.exit("some requests were not answered as they should")


def _launch(models: Path, backend: str, scratch: Path) -> Launch:
    # A busy machine is no failure: nobody is refused for having to wait.
    options = f"--port {{port}} --num-threads 1 --log-level warning --backend {backend}"
    command = (sys.executable, "-m", "server", "serve", *options.split(), "--max-wait-ms", "1e9")
    folders = ("--models", str(models.resolve()), "--profiles", str(scratch / "profiles"))
    return Launch((*command, *folders), {"XDG_DATA_HOME": str(scratch)})


def _show(seen: Seen, fitted: Slope, warm: float, minutes: float) -> None:
    report.show(
        f"{warm + minutes:g} minutes of mixed traffic, {sum(seen.statuses.values())} requests",
        ("request", "status", "count"),
        [
            (kind, status or "client left", count)
            for (kind, status), count in sorted(seen.statuses.items())
        ],
    )
    report.show(
        f"resident memory over {minutes:g} minutes, after {warm:g} to warm up",
        ("MB/min", "standard error", "first MB", "last MB", "samples"),
        [(fitted.mb_per_min, fitted.stderr, fitted.first_mb, fitted.last_mb, fitted.samples)],
    )
    if set(seen.reloads) == {404}:
        print("reload: not available (404)")
    elif seen.reloads:
        print("reloads by status: " + ", ".join(f"{n} x {s}" for s, n in seen.reloads.items()))
    for words, count in seen.unexpected.most_common(8):
        print(f"unexpected, {count} x {words}")


if __name__ == "__main__":
    main()

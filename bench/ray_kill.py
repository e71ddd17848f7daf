"""Replicas killed under load: is every request answered or refused in so many words?

Several replicas of a text model on a Ray cluster of several nodes, all on this machine. Every five
seconds the oldest replica gets SIGKILL, unless it is the only one that runs: replacing it takes as
long as this machine needs to import torch, which is not what is looked at here.

Clients ask for one text after the other. First they take the first answer for the last; then
`rheostat.AsyncClient` asks again by its own rule: after 429, 502, 503 and lost connections, when
the answer says, here up to 120 times. Every vector is compared with the one that the model gives
when nothing is killed.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench import report
from bench.ray_cluster import Nodes, cluster
from bench.trace import texts
from deploy.ray_settings import RaySettings
from rheostat import APIError, AsyncClient, Retries
from server import catalog

_CLIENTS, _PAUSE_S = 12, 0.05
_TIMEOUT_S, _HUNG_S = 20.0, 40.0  # of the router; a request that goes on for longer hangs
_FIRST_KILL_S, _EVERY_S = 1.0, 5.0
_NEVER = Retries(most=0)
_AGAIN = Retries(most=120, first_s=0.2, longest_s=1.0)
_TOLERANCE = 1e-4
_CLASSES = ("answered", "refused", "clear 5xx", "other", "lost", "hung", "wrong")


@dataclass
class Outcomes:
    """What became of the requests of one load."""

    counts: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    said: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    spared: int = 0


async def load(
    url: str, retries: Retries, expected: Mapping[str, Any], seconds: float, killed: Any
) -> Outcomes:
    """Ask for some time while something kills replicas.

    Args:
        url: Of the server.
        retries: When clients ask again.
        expected: The vector of each text.
        seconds: How long; requests under way then are waited for.
        killed: Coroutine function of the outcomes that kills until it is cancelled.
    """
    found = Outcomes()
    until = time.perf_counter() + seconds
    asked = list(expected)
    limit_s = _HUNG_S + (120.0 if retries.most else 0.0)

    async def ask(client: AsyncClient, number: int) -> None:
        while time.perf_counter() < until:
            text = asked[number % len(asked)]
            number += _CLIENTS
            start = time.perf_counter()
            found.counts[await _outcome(client, text, expected[text], limit_s, found)] += 1
            found.latencies_s.append(time.perf_counter() - start)
            await asyncio.sleep(_PAUSE_S)

    async with AsyncClient(url, timeout_s=limit_s, retries=retries) as client:
        killing = asyncio.create_task(killed(found))
        async with asyncio.TaskGroup() as tasks:
            for number in range(_CLIENTS):
                tasks.create_task(ask(client, number))
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    return found


async def _outcome(
    client: AsyncClient, text: str, vector: Any, limit_s: float, found: Outcomes
) -> str:
    try:
        async with asyncio.timeout(limit_s):
            answer = await client.embed(text)
    except TimeoutError:
        return "hung"
    except httpx.TransportError as error:
        found.said[repr(error)] += 1
        return "lost"
    except APIError as error:
        found.said[f"{error.status} {error.message}"] += 1
        if error.status == 429:
            return "refused"
        return "clear 5xx" if error.status >= 500 and error.message else "other"
    return "answered" if np.allclose(answer.vectors[0], vector, atol=_TOLERANCE) else "wrong"


def _killer(nodes: Nodes) -> Any:
    async def kill(found: Outcomes) -> None:
        await asyncio.sleep(_FIRST_KILL_S)
        while True:
            if await asyncio.to_thread(nodes.num_running) > 1:
                await asyncio.to_thread(nodes.kill_replica)
                found.kills += 1
            else:
                found.spared += 1
            await asyncio.sleep(_EVERY_S)

    return kill


async def _until_full(nodes: Nodes, seconds: float = 120.0) -> None:
    """Wait until killed replicas have been replaced and the server is ready."""
    async with asyncio.timeout(seconds), httpx.AsyncClient() as http:
        while await asyncio.to_thread(nodes.num_running) < nodes.settings.min_replicas:
            await asyncio.sleep(0.2)
        while (await http.get(f"{nodes.url}/readyz", timeout=seconds)).status_code != 200:
            await asyncio.sleep(0.2)


async def _expected(url: str, asked: Sequence[str]) -> dict[str, Any]:
    async with AsyncClient(url) as client:
        return {text: (await client.embed(text)).vectors[0] for text in asked}


def main() -> None:
    """Kill replicas without and with retries, and print what became of every request."""
    options = report.parser(__doc__)
    options.add_argument("--model", type=Path, default=report.ZOO_TEXT, metavar="DIR")
    options.add_argument("--replicas", type=int, help="default 3; --quick: 2")
    options.add_argument("--seconds", type=float, help="of each load; default 60; --quick: 5")
    chosen = options.parse_args()
    replicas = chosen.replicas or (2 if chosen.quick else 3)
    seconds = chosen.seconds or (5.0 if chosen.quick else 60.0)
    asked = texts.make(catalog.load(chosen.model).choose(None), 16, 64, seed=0)
    results: dict[str, Outcomes] = {}
    with tempfile.TemporaryDirectory() as scratch, cluster(replicas) as nodes:
        nodes.deploy(
            RaySettings(
                models=chosen.model.resolve(),
                profiles=Path(scratch),
                database=f"sqlite:///{scratch}/clients.db",
                host="127.0.0.1",
                policy="fixed",
                request_timeout_s=_TIMEOUT_S,
                min_replicas=replicas,
                max_replicas=replicas,
            )
        )
        expected = asyncio.run(_expected(nodes.url, asked))
        for name, retries in (("off", _NEVER), ("on", _AGAIN)):
            asyncio.run(_until_full(nodes))
            results[name] = asyncio.run(load(nodes.url, retries, expected, seconds, _killer(nodes)))
    report.show(
        f"SIGKILL to one of {replicas} replicas every {_EVERY_S:g} s for {seconds:g} s",
        ("retries", "kills", "spared", "sent", *_CLASSES, "p50 ms", "p99 ms"),
        [[name, found.kills, found.spared, *_row(found)] for name, found in results.items()],
    )
    for name, found in results.items():
        for said, count in found.said.most_common(4):
            print(f"retries {name}: {count} x {said[:160]}")
    figures = {
        name: {
            "kills": found.kills,
            "spared": found.spared,
            **dict(found.counts),
            "latency_ms": _latencies_ms(found),
            "said": dict(found.said),
        }
        for name, found in results.items()
    }
    report.finish({"ray_kill": json.loads(json.dumps(figures))}, chosen.json)
    off, on = results["off"].counts, results["on"].counts
    if any(one[bad] for one in (off, on) for bad in ("hung", "lost", "other", "wrong")):
        raise SystemExit("requests hung, were lost, or got a wrong answer")
    if on["answered"] != on.total():
        raise SystemExit("requests were not answered although clients asked again")


def _row(found: Outcomes) -> list[object]:
    counts = [found.counts[name] for name in _CLASSES]
    times = _latencies_ms(found)
    return [sum(counts), *counts, round(times["p50"]), round(times["p99"])]


def _latencies_ms(found: Outcomes) -> dict[str, float]:
    seconds = sorted(found.latencies_s)
    p99 = seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))]
    return {
        "p50": 1000 * statistics.median(seconds),
        "p99": 1000 * p99,
        "max": 1000 * seconds[-1],
    }


if __name__ == "__main__":
    main()

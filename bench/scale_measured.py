"""What one and two nodes do on this machine, through Ray's proxy, router and replicas.

Replicas sleep for their batches (`bench.sleeping`): two cores cannot compute for two nodes, but
they can carry what surrounds a batch. Loads are open: requests come at random times (Poisson),
whatever became of those before, and latency counts from when a request was due.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.peers.load import closed_loop
from bench.peers.process import Running
from bench.ray_cluster import Nodes
from bench.scale_model import Replica
from bench.sleeping import Sleeping, SleepingSettings
from bench.trace.replay import replay

REPLICA = Replica(alone_s=0.08, more_s=0.03, max_batch=4)
LOADS = (0.5, 0.8)
_ALONE = 20  # requests, one after the other


@dataclass(frozen=True)
class Overhead:
    """What Ray and the server take for a request beside the batch, seconds.

    Attributes:
        proxy_s: CPU time of the proxy.
        router_s: CPU time of the router.
        replica_s: CPU time of the replica, sleeping not counted.
        batch_s: Of a full batch, all but its sleep.
        alone_s: Of a lone request's latency, all but its batch.
    """

    proxy_s: float
    router_s: float
    replica_s: float
    batch_s: float
    alone_s: float


@dataclass(frozen=True)
class Load:
    """One open load.

    Attributes:
        nodes: That served it.
        load: Of their capacity.
        due_s: When requests were due.
        latencies_s: Of the answers.
        failed: Requests without an answer of status 200.
        per_s: Answers per second, from the first request to the last answer.
    """

    nodes: int
    load: float
    due_s: Sequence[float]
    latencies_s: Sequence[float]
    failed: int
    per_s: float


def deploy(nodes: Nodes, count: int, model: Path, scratch: Path) -> None:
    """Deploy so many sleeping replicas and wait until all answer."""
    nodes.deploy(
        SleepingSettings(
            models=model.resolve(),
            profiles=scratch,
            database=f"sqlite:///{scratch}/clients.db",
            host="127.0.0.1",
            policy="fixed",
            max_wait_ms=1e9,
            max_batch_size=REPLICA.max_batch,
            min_replicas=count,
            max_replicas=count,
            alone_s=REPLICA.alone_s,
            more_s=REPLICA.more_s,
        ),
        Sleeping,
    )


def overhead(nodes: Nodes, bodies: Sequence[bytes], seconds: float) -> Overhead:
    """Measure what a request takes beside its batch, on one node."""
    server = Running(nodes.port, 0)
    closed_loop(server, bodies, REPLICA.max_batch, 1.0)  # to warm up
    before = nodes.cpu_s()
    full = closed_loop(server, bodies, 4 * REPLICA.max_batch, seconds)
    used = {role: cpu_s - before[role] for role, cpu_s in nodes.cpu_s().items()}
    alone_s = REPLICA.alone_s + REPLICA.more_s
    lone = closed_loop(server, bodies, 1, _ALONE * alone_s)
    count = full.num_requests
    return Overhead(
        proxy_s=used["proxy"] / count,
        router_s=used["router"] / count,
        replica_s=used["replicas"] / count,
        batch_s=max(0.0, REPLICA.max_batch * (1 / full.requests_per_s - 1 / REPLICA.capacity)),
        alone_s=lone.p50_ms / 1000 - alone_s,
    )


def open_load(
    server: Running,
    nodes: int,
    replica: Replica,
    bodies: Sequence[bytes],
    load: float,
    seconds: float,
) -> Load:
    """Send an open load.

    Args:
        server: To send to.
        nodes: Behind it.
        replica: On each of them; fixes the capacity.
        bodies: Used over and over.
        load: Share of the capacity.
        seconds: For how long requests are due.
    """
    rate = load * nodes * replica.capacity
    number = max(20, round(rate * seconds))
    due_s = np.cumsum(np.random.default_rng(nodes).exponential(1 / rate, number))
    asked = [bodies[i % len(bodies)] for i in range(number)]
    outcomes = replay(server, asked, due_s, patience_s=60.0)
    answered = [
        (due + one.latency_s, one.latency_s)
        for due, one in zip(due_s.tolist(), outcomes, strict=True)
        if one.status == 200
    ]
    return Load(
        nodes=nodes,
        load=load,
        due_s=due_s.tolist(),
        latencies_s=[latency for _, latency in answered],
        failed=number - len(answered),
        per_s=len(answered) / (max(at for at, _ in answered) - float(due_s[0])),
    )


def bodies_of(model: str, texts: Sequence[str]) -> list[bytes]:
    """Return requests for one embedding each."""
    return [
        json.dumps({"model": model, "input": text, "encoding_format": "base64"}).encode()
        for text in texts
    ]


def quantile_s(latencies_s: Sequence[float], q: float) -> float:
    """Return a quantile; the median as `statistics` has it."""
    if q == 0.5:
        return statistics.median(latencies_s)
    return float(np.quantile(np.array(latencies_s), q))

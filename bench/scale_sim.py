"""From what one and two nodes do here to 100,000 requests per second, by simulation.

First the model (`bench.scale_model`) has to reproduce what is measured: one and two nodes behind
Ray's proxy and router, at half and at four fifths of their capacity, and one server process that
really computes. It gets the measured times of the parts and the arrivals as they were, nothing is
fitted to the latencies compared. Then it extrapolates, and a table says how many of each part the
load needs. What is assumed for that is printed with it.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import report
from bench.peers.load import closed_loop, collect
from bench.peers.process import Running, running
from bench.ray_cluster import cluster
from bench.scale_measured import (
    LOADS,
    REPLICA,
    Load,
    Overhead,
    bodies_of,
    deploy,
    open_load,
    overhead,
    quantile_s,
)
from bench.scale_model import Cluster, Replica, Run, simulate
from bench.trace import arrivals, texts
from bench.trace.policies import Policy
from server import catalog
from server.served import Served
from server.settings import data_folder

_NUM_TEXTS, _NUM_TOKENS = 256, 16
_RATE, _QUICK_RATE = 100_000.0, 5_000.0
_SECONDS = 1.0
_ROUTER_LOAD = 0.6  # of a router's time; Python's event loop has to breathe
_NIC_BITS = 10e9
_BATCH = 32
_ASSUMED = (
    "a machine is this one: its cores do what one server process did here, clients aside",
    "batches and routing as in bench/scale_model.py; all replicas alike, none fails",
    "a router's time is one core's, proxy and router each on its own; requests spread evenly",
    "a row's time follows its share of the MACs; the price policy is the server's own code",
    "no time for the network beyond its bandwidth; its bytes are those measured on the loopback",
)


@dataclass(frozen=True)
class Process:
    """One server process that computes.

    Attributes:
        replica: Its times, from a lone request and from a full load.
        sent_bytes: Of a request, without TCP's share.
        received_bytes: Of its answer.
        loads: Open loads, and what was measured.
    """

    replica: Replica
    sent_bytes: int
    received_bytes: int
    loads: list[Load]


def main() -> None:
    """Measure, compare, extrapolate."""
    options = report.parser(__doc__)
    options.add_argument("--model", type=Path, default=report.ZOO_TEXT, metavar="DIR")
    options.add_argument("--rate", type=float, help="requests/s; default 100000; --quick: 5000")
    options.add_argument("--seconds", type=float, help="of a load; default 20; --quick: 1.5")
    chosen = options.parse_args()
    seconds = chosen.seconds or (1.5 if chosen.quick else 20.0)
    rate = chosen.rate or (_QUICK_RATE if chosen.quick else _RATE)
    served = catalog.load(chosen.model).choose(None)
    asked = bodies_of(served.name, texts.make(served, _NUM_TOKENS, _NUM_TEXTS, seed=0))
    # One folder for both: the model's steps are timed once, and decide nothing here.
    with tempfile.TemporaryDirectory() as scratch:
        folder, max_nodes = Path(scratch), 1 if chosen.quick else 2
        loads, found = _measured(chosen.model, asked, seconds, max_nodes, folder)
        process = _process(served, asked, seconds, folder)
    node = replace(REPLICA, alone_s=REPLICA.alone_s + found.batch_s)
    constant_s = max(0.0, found.alone_s - found.router_s - found.batch_s)
    per_node = [Cluster(one.nodes, node, 1, found.router_s, constant_s) for one in loads]
    errors = _compare("nodes behind Ray that sleep for their batches", loads, per_node)
    print("measured, ms: " + ", ".join(f"{k} {1000 * v:.1f}" for k, v in asdict(found).items()))
    single = [Cluster(1, process.replica)] * len(process.loads)
    errors += _compare("one server process that computes", process.loads, single)
    needs = _needs(rate, process, found)
    rows = _extrapolate(rate, process.replica, served, found.router_s)
    figures: dict[str, Any] = {
        "overhead": asdict(found),
        "replica": asdict(process.replica),
        "errors": errors,
        "needs": needs,
        "extrapolated": rows,
        "assumed": _ASSUMED,
    }
    report.finish({"scale": figures}, chosen.json)


def _measured(
    model: Path, bodies: Sequence[bytes], seconds: float, max_nodes: int, scratch: Path
) -> tuple[list[Load], Overhead]:
    loads = []
    with cluster(max_nodes) as nodes:
        deploy(nodes, 1, model, scratch)
        found = overhead(nodes, bodies, seconds)
        for count in range(1, max_nodes + 1):
            if count > 1:
                deploy(nodes, count, model, scratch)
            server = Running(nodes.port, 0)
            loads += [open_load(server, count, REPLICA, bodies, x, seconds) for x in LOADS]
    return loads, found


def _process(served: Served, bodies: Sequence[bytes], seconds: float, scratch: Path) -> Process:
    """Measure one server process of its own, which computes with one thread."""
    launch = Policy("fixed", "fixed").launch(served.folder, scratch)
    command = (*launch.command, "--max-wait-ms", "1e9")
    launch = replace(launch, command=command, environment={"XDG_DATA_HOME": str(scratch)})
    with running(launch, 1, bodies[0]) as server:
        closed_loop(server, bodies, 2 * _BATCH, 1.0)  # to warm up
        full = closed_loop(server, bodies, 2 * _BATCH, seconds)
        lone = closed_loop(server, bodies, 1, seconds / 2)
        # A lone request takes alone + more, a full batch alone + 32 more.
        per_batch_s, lone_s = _BATCH / full.requests_per_s, lone.p50_ms / 1000
        more_s = max(0.0, (per_batch_s - lone_s) / (_BATCH - 1))
        replica = Replica(max(0.0, lone_s - more_s), more_s, _BATCH)
        answer = collect(server, bodies[:1], 1)[0]
        return Process(
            replica=replica,
            sent_bytes=len(bodies[0]) + 150,  # of headers
            received_bytes=len(answer) + 250,
            loads=[open_load(server, 1, replica, bodies, load, seconds) for load in LOADS],
        )


def _compare(
    title: str, loads: Sequence[Load], clusters: Sequence[Cluster]
) -> list[dict[str, float]]:
    """Print measured beside simulated figures and return the relative errors."""
    rows, errors = [], []
    for one, model in zip(loads, clusters, strict=True):
        run = simulate(model, one.due_s, seed=0)
        pairs = {
            "per_s": (one.per_s, len(run.latencies) / (run.end - one.due_s[0])),
            "p50": (quantile_s(one.latencies_s, 0.5), quantile_s(run.latencies, 0.5)),
            "p99": (quantile_s(one.latencies_s, 0.99), quantile_s(run.latencies, 0.99)),
        }
        error = {name: simulated / seen - 1 for name, (seen, simulated) in pairs.items()}
        errors.append({"nodes": one.nodes, "load": one.load, **error})
        cells = [f"{1000 * x:.0f}" for name in ("p50", "p99") for x in pairs[name]]
        rates = [f"{x:.1f}" for x in pairs["per_s"]]
        shown = [f"{100 * x:+.0f} %" for x in error.values()]
        rows.append([one.nodes, one.load, len(one.due_s), one.failed, *rates, *cells, *shown])
    columns = ["nodes", "load", "sent", "failed", "per s", "sim", "p50 ms", "sim", "p99 ms", "sim"]
    report.show(title, [*columns, "error per s", "p50", "p99"], rows)
    return errors


def _needs(rate: float, process: Process, found: Overhead) -> list[dict[str, Any]]:
    """Print how many of each part a load needs."""
    bits = 8 * max(process.sent_bytes, process.received_bytes)
    parts = [
        ("machine, whole model", process.replica.capacity, 0.7),
        ("Ray's proxy (one core)", 1 / found.proxy_s, _ROUTER_LOAD),
        ("router (one core)", 1 / found.router_s, _ROUTER_LOAD),
        ("10 Gbit/s network card of a router's machine", _NIC_BITS / (2 * bits), _ROUTER_LOAD),
    ]
    needs = [
        {"part": part, "per_s": per_s, "used": used, "needed": math.ceil(rate / per_s / used)}
        for part, per_s, used in parts
    ]
    report.show(
        f"what {rate:g} requests/s need",
        ("part", "requests/s each", "used to", "needed"),
        [(one["part"], f"{one['per_s']:.0f}", one["used"], one["needed"]) for one in needs],
    )
    print(
        f"bytes: {process.sent_bytes} in and {process.received_bytes} out a request, "
        f"{rate * bits / 1e9:.1f} Gbit/s at {rate:g} requests/s"
    )
    return needs


def _extrapolate(
    rate: float, replica: Replica, served: Served, router_s: float
) -> list[dict[str, Any]]:
    """Simulate the whole load at several sizes of the cluster, arrivals and policies."""
    front = tuple((point.fraction, point.quality) for point in served.front)
    slimming = replace(replica, front=front)
    routers = math.ceil(rate * router_s / _ROUTER_LOAD)
    rows: list[dict[str, Any]] = []
    for pattern in _patterns(rate):
        for load in (0.7, 0.9, 1.3):
            count = math.ceil(rate / replica.capacity / load)
            for policy, one in (("fixed", replica), ("price", slimming)):
                if policy == "fixed" and load > 1:
                    continue  # its queue grows without end
                run = simulate(Cluster(count, one, routers, router_s), pattern.times, seed=0)
                rows.append(_row(pattern, load, policy, count, routers, run))
    columns = ("arrivals", "load", "policy", "replicas", "routers", "p50 ms", "p99 ms")
    report.show(
        f"{rate:g} requests/s for {_SECONDS:g} s, simulated",
        (*columns, "busy", "router busy", "MACs", "quality"),
        [tuple(f"{x:g}" if isinstance(x, float) else x for x in row.values()) for row in rows],
    )
    for assumed in _ASSUMED:
        print(f"assumed: {assumed}")
    return rows


@dataclass(frozen=True)
class _Pattern:
    name: str
    times: list[float]


def _patterns(rate: float) -> list[_Pattern]:
    """Return random arrivals, and those of a real service if there are any here."""
    rng = np.random.default_rng(0)
    count = round(rate * _SECONDS)
    found = [_Pattern("Poisson", np.sort(rng.uniform(0, _SECONDS, count)).tolist())]
    try:
        trace = arrivals.make("code-median", 256, 0, data_folder())
    except (ValueError, FileNotFoundError) as error:
        print(f"no real arrivals: {error}")
        return found
    # Each arrival stands for as many as the load has more, spread over the gap before it.
    gaps = np.diff(trace.times * _SECONDS / trace.times[-1])
    each = rng.integers(0, len(gaps), count)
    starts = np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
    times = np.sort(starts[each] + gaps[each] * rng.uniform(0, 1, count))
    return [*found, _Pattern("Azure code", times.tolist())]


def _row(
    pattern: _Pattern, load: float, policy: str, count: int, routers: int, run: Run
) -> dict[str, Any]:
    return {
        "arrivals": pattern.name,
        "load": load,
        "policy": policy,
        "replicas": count,
        "routers": routers,
        "p50_ms": round(1000 * quantile_s(run.latencies, 0.5), 1),
        "p99_ms": round(1000 * quantile_s(run.latencies, 0.99), 1),
        "busy": round(run.busy_s / pattern.times[-1] / count, 3),
        "router_busy": round(run.routing_s / pattern.times[-1] / routers, 3),
        "macs": round(statistics.fmean(run.shares), 3),
        "quality": round(statistics.fmean(run.qualities), 4),
    }


if __name__ == "__main__":
    main()

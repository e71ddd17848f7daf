"""Ten times what the server can do: is everybody answered or refused, and how soon is it over?

One open loop: calm, a burst at ten times the rate that the whole model can serve, calm again. Every
request has a latency budget, asks for the whole model and counts from when it was due at the
client, which shares the server's cores. Rates are random (Poisson); texts differ. Where the model
is so fast that two cores cannot even send and read ten times its rate, ``--texts`` makes requests
of several texts.

Then the same without latency budgets: 512 clients that give up after a second.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import report
from bench.impatience import Goodput, impatient_loop
from bench.peers.load import closed_loop
from bench.peers.process import running
from bench.settling import ASKING_S, settle_server
from bench.trace import texts
from bench.trace.arrivals import FloatArray
from bench.trace.policies import Policy
from bench.trace.replay import Outcome, replay
from bench.trace.tally import tally
from server import catalog

_NUM_TEXTS, _NUM_TOKENS = 1024, 16
_CONNECTIONS = 16
_CALM_LOAD = 0.3
_FULL = 0.001  # below the quality of calm seconds is still the same
_COLUMNS = (
    "phase",
    "sent",
    "answered",
    "refused",
    "expired",
    "other",
    "lost",
    "p50 ms",
    "p99 ms",
    "in time",
    "quality",
)


_GOODPUT = ("p50 ms", "answered", "refused", "given up", "other")


def main() -> None:
    """Run the three phases against one server and print what became of every request."""
    options = report.parser(__doc__)
    options.add_argument("--model", type=Path, default=report.ZOO_TEXT, metavar="DIR")
    options.add_argument("--policy", default="price", choices=("price", "slackfit", "fixed"))
    options.add_argument("--backend", default="auto", choices=("auto", "torch", "onnx"))
    options.add_argument("--texts", type=int, default=1, help="in each request")
    options.add_argument("--times", type=float, default=10.0, help="load of the burst")
    options.add_argument("--seconds", type=float, help="length of the burst; default 60")
    options.add_argument("--slo-ms", type=float, default=500.0, help="latency budget")
    options.add_argument("--clients", type=int, default=512, help="that give up")
    options.add_argument("--patience-s", type=float, default=1.0, help="after so long")
    chosen = options.parse_args()
    if chosen.texts < 1:
        options.error(f"argument --texts: {chosen.texts} must be at least 1")
    calm_s, burst_s = (5.0, 8.0) if chosen.quick else (15.0, 60.0)
    burst_s = chosen.seconds or burst_s
    served = catalog.load(chosen.model).choose(None)
    lines = texts.make(served, _NUM_TOKENS, _NUM_TEXTS, seed=0)
    asked = [lines[i : i + chosen.texts] for i in range(0, _NUM_TEXTS, chosen.texts)]
    policy = Policy(chosen.policy, chosen.policy)
    slo_s = chosen.slo_ms / 1000
    bodies = [policy.body(served.name, some, slo_s) for some in asked]
    with (
        tempfile.TemporaryDirectory() as profiles,
        running(
            policy.launch(chosen.model, Path(profiles), chosen.backend), 1, bodies[0]
        ) as server,
    ):
        strict = [_strictly(policy.body(served.name, some)) for some in asked]
        settle_server(server, partial(closed_loop, server, strict, 1, ASKING_S))
        loop_s = 2.0 if chosen.quick else 6.0
        capacity = closed_loop(server, strict, _CONNECTIONS, loop_s).requests_per_s
        phases = [(calm_s, _CALM_LOAD), (burst_s, chosen.times), (calm_s, _CALM_LOAD)]
        due_s, of_phase = _arrivals(phases, capacity, np.random.default_rng(0))
        outcomes = replay(server, [bodies[i % len(bodies)] for i in range(len(due_s))], due_s)
        seconds = 8.0 if chosen.quick else 30.0
        free = [_without_budget(policy.body(served.name, some)) for some in asked]
        goodput = impatient_loop(server, free, chosen.clients, seconds, chosen.patience_s)
    rows = []
    for phase, name in enumerate(("before", "burst", "after")):
        own = [one for one, of in zip(outcomes, of_phase, strict=True) if of == phase]
        rows.append([name, *_row(own, slo_s)])
    recovery = _recovery_s(outcomes, due_s, of_phase, calm_s + burst_s)
    report.show(
        f"{chosen.policy}, {chosen.backend}: {chosen.times:g} x {capacity:.0f} requests/s "
        f"(texts in each: {chosen.texts}) for {burst_s:g} s, latency budget {chosen.slo_ms:g} ms",
        _COLUMNS,
        rows,
    )
    print(f"quality as before {recovery:g} s after the burst")
    report.show(
        f"{chosen.clients} clients without a latency budget that give up after "
        f"{chosen.patience_s:g} s, for {seconds:g} s",
        ("capacity/s", "goodput/s", "part", *_GOODPUT),
        [[capacity, goodput.answered_per_s, goodput.answered_per_s / capacity, *_counts(goodput)]],
    )
    figures: dict[str, Any] = {
        "impatient": asdict(goodput),
        "texts": chosen.texts,
        "capacity": capacity,
        "phases": [dict(zip(_COLUMNS, row, strict=True)) for row in rows],
        "recovery_s": recovery,
    }
    report.finish({"overload": figures}, chosen.json)
    if any(row[_COLUMNS.index("lost")] for row in rows):
        sys.exit("requests were lost")


def _counts(goodput: Goodput) -> list[object]:
    return [getattr(goodput, name.replace(" ", "_")) for name in _GOODPUT]


def _without_budget(body: bytes) -> bytes:
    return json.dumps({k: v for k, v in json.loads(body).items() if k != "budget"}).encode()


def _strictly(body: bytes) -> bytes:
    return json.dumps({**json.loads(body), "budget": {"strict": True}}).encode()


def _arrivals(
    phases: Sequence[tuple[float, float]], capacity: float, rng: np.random.Generator
) -> tuple[FloatArray, list[int]]:
    """Return when requests are due, seconds, and the phase of each."""
    due: list[float] = []
    of_phase: list[int] = []
    start = 0.0
    for phase, (seconds, load) in enumerate(phases):
        count = rng.poisson(seconds * load * capacity)
        due += sorted((start + seconds * rng.random(count)).tolist())
        of_phase += [phase] * count
        start += seconds
    return np.array(due), of_phase


def _row(outcomes: Sequence[Outcome], slo_s: float) -> list[object]:
    found = tally(outcomes, slo_s)
    answered = found.met + found.late
    return [
        found.sent,
        answered,
        found.refused,
        found.expired,
        found.other,
        found.lost,
        found.p50_ms,
        found.p99_ms,
        found.met / answered if answered else None,
        found.quality,
    ]


def _recovery_s(
    outcomes: Sequence[Outcome], due_s: FloatArray, of_phase: Sequence[int], end_s: float
) -> float:
    """Return how long after the burst the last second was over in which less was answered.

    Less than in the worst second before it: a few requests that come together are slimmed in calm
    times too. What is not answered has no quality.
    """
    seconds: dict[int, list[float]] = {}
    for one, due in zip(outcomes, due_s.tolist(), strict=True):
        quality = json.loads(one.content)["receipt"]["quality"] if one.status == 200 else 0.0
        seconds.setdefault(math.floor(due - end_s), []).append(quality)
    means = {second: statistics.fmean(found) for second, found in seconds.items()}
    first = math.floor(due_s[of_phase.index(1)] - end_s) if 1 in of_phase else 0
    usual = min((mean for second, mean in means.items() if second < first), default=1.0)
    less = [s + 1 for s, mean in means.items() if s >= 0 and mean < usual - _FULL]
    return float(max(less, default=0))


if __name__ == "__main__":
    main()

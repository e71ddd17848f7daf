"""Runs every cell: the machine and the servers first, the bounds last."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.peers.load import closed_loop
from bench.peers.process import Running, running
from bench.trace import arrivals, policies, texts
from bench.trace.arrivals import Arrivals
from bench.trace.bound import bound
from bench.trace.policies import FULL, Policy
from bench.trace.replay import replay
from bench.trace.results import Cell, Results
from bench.trace.service_times import ServiceTimes
from bench.trace.tally import tally
from server import catalog

LEAST_SLO_S = 0.05
SLO_FACTOR = 5  # times the median latency of a request alone
_NUM_TEXTS = 1024  # used in turn; equal ones in one batch would run once
_CONNECTIONS = 16  # keeps the server busy, and none waits so long that it is refused
_PAUSE_S = 0.4  # between cells, so that a server comes to rest
_LEAST_REQUESTS = 20


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: Folder of the checkpoint.
        data: Folder of data sets, for traces.
        patterns: Names of arrivals.
        loads: Mean rates, by the capacity at the full model.
        policies: Names.
        seconds: Length of a pattern at load 1.
        slo_s: The objective; None for a multiple of what a request takes alone.
        num_tokens: Of every text.
        seed: Of texts and random arrivals.
        closed_s: For how long a closed loop runs.
        batch_sizes: At which subnets are timed.
        timing_s: For how long, before the cells and once more after them, at least once each.
    """

    model: Path
    data: Path | None
    patterns: Sequence[str]
    loads: Sequence[float]
    policies: Sequence[str]
    seconds: float
    slo_s: float | None
    num_tokens: int
    seed: int
    closed_s: float = 3.0
    batch_sizes: Sequence[int] = (8, 32)
    timing_s: float = 5.0


def measure(settings: Settings) -> Results:
    """Run every cell.

    Raises:
        ValueError: If the model, its texts or the arrivals cannot be had.
        FileNotFoundError: If a trace is not there.
        ServerError: If a server does not start, or fails in a closed loop.
    """
    for name in settings.patterns:  # refused now rather than minutes later
        arrivals.make(name, _LEAST_REQUESTS, settings.seed, settings.data)
    served = catalog.load(settings.model).choose(None)
    asked = texts.make(served, settings.num_tokens, _NUM_TEXTS, settings.seed)
    service = ServiceTimes(served, asked, settings.batch_sizes)
    everyone = policies.everyone(service.front[0].fraction)
    _note("timing subnets in this process")
    service.measure(settings.timing_s)
    with ExitStack() as stack:
        profiles = Path(stack.enter_context(TemporaryDirectory()))
        stand = _Stand(settings, served.name, asked, everyone, profiles)
        for name in dict.fromkeys((FULL, *settings.policies)):
            stand.start(name, stack)
        found = stand.machine()
        for pattern in found.patterns.values():
            for load in settings.loads:
                stand.take_turns(found, pattern, load)
    _note("timing subnets once more")
    service.measure(settings.timing_s)
    found.service = service.figures()
    for cell in found.cells:
        if (key := (cell.arrivals, cell.load)) not in found.limits:
            due_s = found.patterns[cell.arrivals].at(cell.rate)
            found.limits[key] = bound(due_s, found.slo_s, service.points)
    return found


@dataclass
class _Stand:
    """The servers, and what they are asked.

    Attributes:
        settings: What is measured.
        model: Its name.
        texts: Used in turn.
        policies: By name.
        profiles: Folder of measured times: the first server fills it, the others read it.
        servers: Those started, by the name of their policy.
    """

    settings: Settings
    model: str
    texts: Sequence[str]
    policies: Mapping[str, Policy]
    profiles: Path
    servers: dict[str, Running] = field(default_factory=dict)

    def start(self, name: str, stack: ExitStack) -> None:
        """Start a policy's server and warm it up."""
        _note(f"starting {name}")
        bodies = self._bodies(name, _CONNECTIONS)
        launch = self.policies[name].launch(self.settings.model, self.profiles)
        self.servers[name] = stack.enter_context(running(launch, 1, bodies[0]))
        closed_loop(self.servers[name], bodies, 8, self.settings.closed_s / 3)

    def machine(self) -> Results:
        """Measure the full model alone and under load, and draw the arrivals for it."""
        settings = self.settings
        server, bodies = self.servers[FULL], self._bodies(FULL, len(self.texts))
        alone = closed_loop(server, bodies, 1, settings.closed_s)
        capacity = closed_loop(server, bodies, _CONNECTIONS, settings.closed_s).requests_per_s
        slo_s = settings.slo_s or max(LEAST_SLO_S, SLO_FACTOR * alone.p50_ms / 1000)
        count = max(_LEAST_REQUESTS, round(capacity * settings.seconds))
        drawn = [arrivals.make(n, count, settings.seed, settings.data) for n in settings.patterns]
        patterns = {one.name: one for one in drawn}
        _note(f"alone {alone.p50_ms:.1f} ms, load 1: {capacity:.1f} requests/s, {count} in a cell")
        return Results(capacity, alone.p50_ms, slo_s, settings.num_tokens, patterns)

    def take_turns(self, found: Results, pattern: Arrivals, load: float) -> None:
        """Let every policy meet the same arrivals; each time another one begins."""
        rate = load * found.capacity
        due_s = pattern.at(rate)
        names = self.settings.policies
        turn = len(found.cells) // len(names) % len(names)
        for name in (*names[turn:], *names[:turn]):
            _note(f"{pattern.name}, load {load:g}: {name}")
            bodies = self._bodies(name, len(due_s), found.slo_s)
            counted = tally(replay(self.servers[name], bodies, due_s), found.slo_s)
            found.cells.append(Cell(pattern.name, load, name, rate, float(due_s[-1]), counted))
            time.sleep(_PAUSE_S)

    def _bodies(self, name: str, count: int, slo_s: float | None = None) -> list[bytes]:
        policy, size = self.policies[name], len(self.texts)
        return [policy.body(self.model, self.texts[i % size], slo_s) for i in range(count)]


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

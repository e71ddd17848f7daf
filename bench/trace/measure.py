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
from bench.trace import arrivals, policies, simulate, texts
from bench.trace.around import Slowness
from bench.trace.bound import bound
from bench.trace.policies import FULL, Policy
from bench.trace.replay import replay
from bench.trace.results import Cell, Results
from bench.trace.service_times import ServiceTimes
from bench.trace.tally import tally
from models.backends.torch import TorchBackend
from models.inputs.text import text_input
from search.find import Selection
from server import catalog
from server.engine import load
from server.profiles import Profiles
from server.served import Served

LEAST_SLO_S = 0.05
SLO_FACTOR = 5  # times the median latency of a request alone
_NUM_TEXTS = 1024  # used in turn; equal ones in one batch would run once
_CONNECTIONS = 16  # keeps the server busy, and none waits so long that it is refused
_PAUSE_S = 0.4  # between cells, so that a server comes to rest
_LEAST_REQUESTS = 20
_TARGET_S = 0.05  # as the servers' default


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
        seeds: Of random arrivals, the first of texts too.
        is_simulated: Whether no server is started (`bench.trace.simulate`).
        slow: Times what a simulated machine takes in half of the time.
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
    seeds: Sequence[int]
    is_simulated: bool = False
    slow: float = 1.0
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
        arrivals.make(name, _LEAST_REQUESTS, settings.seeds[0], settings.data)
    served = catalog.load(settings.model).choose(None)
    asked = texts.make(served, settings.num_tokens, _NUM_TEXTS, settings.seeds[0])
    service = ServiceTimes(served, asked, settings.batch_sizes)
    everyone = policies.everyone(service.front[0].fraction)
    with ExitStack() as stack:
        profiles = Path(stack.enter_context(TemporaryDirectory()))
        stand: _Simulation | _Stand
        if settings.is_simulated:
            stand = _Simulation(settings, served, asked[0], everyone, profiles)
            service.seconds = [stand.least_s(one) for one in service.front]
        else:
            _note("timing subnets in this process")
            service.measure(settings.timing_s)
            stand = _Stand(settings, served.name, asked, everyone, profiles)
            for name in dict.fromkeys((FULL, *settings.policies)):
                stand.start(name, stack)
        found = stand.machine()
        for seed in settings.seeds:
            for name in settings.patterns:
                for load in settings.loads:
                    stand.take_turns(found, (name, seed), load)
    if not settings.is_simulated:
        _note("timing subnets once more")
        service.measure(settings.timing_s)
    found.service = service.figures()
    for cell in found.cells:
        if (key := (cell.arrivals, cell.seed, cell.load)) not in found.limits:
            due_s = found.patterns[cell.arrivals, cell.seed].at(cell.rate)
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
        """Start a policy's server, warm it up, and let it build what it builds ahead.

        Of the servers here only one is asked at a time, and all share the cores.
        """
        _note(f"starting {name}")
        bodies = self._bodies(name, _CONNECTIONS)
        launch = self.policies[name].launch(self.settings.model, self.profiles)
        self.servers[name] = stack.enter_context(running(launch, 1, bodies[0]))
        closed_loop(self.servers[name], bodies, 8, self.settings.closed_s / 3)
        self.servers[name].rest()

    def machine(self) -> Results:
        """Measure the full model alone and under load, and draw the arrivals for it."""
        settings = self.settings
        server, bodies = self.servers[FULL], self._bodies(FULL, len(self.texts))
        alone = closed_loop(server, bodies, 1, settings.closed_s)
        capacity = closed_loop(server, bodies, _CONNECTIONS, settings.closed_s).requests_per_s
        return _drawn(settings, alone.p50_ms, capacity)

    def take_turns(self, found: Results, key: tuple[str, int], load: float) -> None:
        """Let every policy meet the same arrivals; each time another one begins."""
        rate = load * found.capacity
        due_s = found.patterns[key].at(rate)
        names = self.settings.policies
        turn = len(found.cells) // len(names) % len(names)
        for name in (*names[turn:], *names[:turn]):
            _note(f"{key[0]}, seed {key[1]}, load {load:g}: {name}")
            bodies = self._bodies(name, len(due_s), found.slo_s)
            counted = tally(replay(self.servers[name], bodies, due_s), found.slo_s)
            found.cells.append(Cell(*key, load, name, rate, float(due_s[-1]), counted))
            time.sleep(_PAUSE_S)

    def _bodies(self, name: str, count: int, slo_s: float | None = None) -> list[bytes]:
        policy, size = self.policies[name], len(self.texts)
        return [policy.body(self.model, self.texts[i % size], slo_s) for i in range(count)]


class _Simulation:
    """The same in virtual time."""

    def __init__(
        self,
        settings: Settings,
        served: Served,
        text: str,
        policies: Mapping[str, Policy],
        profiles: Path,
    ) -> None:
        backend = TorchBackend()
        backend.prepare(served.model)
        _note("measuring the latency profile")
        timed = served.timed(Profiles(profiles, backend, time.perf_counter).get(served))
        encoded = text_input(served.inputs).encode(text)
        self._machine = simulate.Machine(
            timed,
            served.inputs.item({"text": encoded}),
            slowness=Slowness(settings.slow, settings.seeds[0]),
        )
        self._settings, self._policies = settings, policies
        # A server learns; it meets one pattern after the other.
        self._learnt = {name: load.policy(one.option, _TARGET_S) for name, one in policies.items()}
        self._start = 0.0

    def machine(self) -> Results:
        """Reckon what the full model takes alone and in full batches, and draw the arrivals."""
        alone_s, each_s = self._machine.whole_s(1), self._machine.whole_s(_CONNECTIONS)
        return _drawn(self._settings, 1000 * alone_s, _CONNECTIONS / each_s)

    def least_s(self, selection: Selection) -> float:
        """Return what a text takes in the fastest batches."""
        plan = self._machine.served.prepare(selection.subnet, selection.scores)
        sizes = self._settings.batch_sizes
        return min(self._machine.batch_s([plan] * size) / size for size in sizes)

    def take_turns(self, found: Results, key: tuple[str, int], load: float) -> None:
        """Let every policy meet the same arrivals."""
        rate = load * found.capacity
        due_s = found.patterns[key].at(rate)
        start = self._start + due_s
        self._start = float(start[-1]) + _PAUSE_S
        for name in self._settings.policies:
            policy = self._learnt[name]
            outcomes = self._machine.replay(
                policy, self._policies[name].fraction, start, found.slo_s
            )
            counted = tally(outcomes, found.slo_s)
            found.cells.append(Cell(*key, load, name, rate, float(due_s[-1]), counted))


def _drawn(settings: Settings, alone_ms: float, capacity: float) -> Results:
    """Return what will be filled, with the arrivals for a capacity."""
    slo_s = settings.slo_s or max(LEAST_SLO_S, SLO_FACTOR * alone_ms / 1000)
    count = max(_LEAST_REQUESTS, round(capacity * settings.seconds))
    _note(f"alone {alone_ms:.1f} ms, load 1: {capacity:.1f} requests/s, {count} in a cell")
    patterns = {
        (name, seed): arrivals.make(name, count, seed, settings.data)
        for seed in settings.seeds
        for name in settings.patterns
    }
    return Results(capacity, alone_ms, slo_s, settings.num_tokens, patterns)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

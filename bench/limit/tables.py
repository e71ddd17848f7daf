"""What was found, and the tables that show it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import report
from bench.limit.bare import Alone, Throughput
from bench.limit.load import STAGES, Window
from models.space import Value

_MAX_SHOWN = 4  # axes
_QUIET = 0.95


@dataclass(frozen=True)
class Round:
    """One case in one arrangement: the bare kernel and the server, one after the other.

    Attributes:
        bare: In batches.
        full: The server, with many connections.
        alone: The bare kernel, one input at a time.
        lone: The server, with one connection.
    """

    bare: Throughput
    full: Window
    alone: Alone
    lone: Window

    @property
    def ratio(self) -> float:
        """The server's requests over the kernel's rows, by the clock."""
        return self.full.requests_per_s / self.bare.rows_per_s

    @property
    def core(self) -> float:
        """How much of a core the kernel got; other work on the machine had the rest."""
        return self.bare.rows_per_s * self.bare.cpu_ms / 1000

    @property
    def cpu_ratio(self) -> float:
        """The kernel's CPU time over the server's."""
        return self.bare.cpu_ms / self.full.server_ms

    @property
    def beyond_us(self) -> float:
        """The server's CPU time for each request beyond the kernel's."""
        return 1000 * (self.full.server_ms - self.bare.cpu_ms)

    @property
    def added_ms(self) -> float:
        """What a lone request waits beyond the run."""
        return self.lone.p50_ms - self.alone.run_ms

    @property
    def added_to_both_ms(self) -> float:
        """What a lone request waits beyond tokenising or decoding and the run."""
        return self.lone.p50_ms - self.alone.whole_ms


@dataclass
class Results:
    """Everything found so far.

    Attributes:
        connections: Of a server under full load.
        ran: Per case, the subnet and its share of the largest one's MACs.
        rounds: By case and arrangement.
    """

    connections: int
    ran: dict[str, tuple[tuple[tuple[str, Value], ...], float]] = field(default_factory=dict)
    rounds: dict[tuple[str, str], list[Round]] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Return all of it for a file."""
        return {
            "connections": self.connections,
            "ran": {
                case: {"subnet": dict(subnet), "fraction": fraction}
                for case, (subnet, fraction) in self.ran.items()
            },
            "rounds": [
                {
                    "case": case,
                    "arrangement": arrangement,
                    "ratio": one.ratio,
                    "cpu_ratio": one.cpu_ratio,
                    "core": one.core,
                    "added_ms": one.added_ms,
                    **asdict(one),
                }
                for (case, arrangement), rounds in self.rounds.items()
                for one in rounds
            ],
        }


def show(results: Results, inputs: str) -> None:
    """Print all tables: medians over rounds.

    Args:
        results: Of all rounds.
        inputs: What was sent.
    """
    print(inputs)
    rows = [[case, _short(subnet), share] for case, (subnet, share) in results.ran.items()]
    report.show("What ran", ["case", "subnet", "of the MACs"], rows)
    _show_rates(results)
    _show_cpu(results)
    _show_latency(results)
    _show_stages(results)
    got = min(one.core for rounds in results.rounds.values() for one in rounds)
    if got < _QUIET:
        print(f"the machine was busy: the kernel got only {got:.2f} of a core at the worst")


def _short(subnet: tuple[tuple[str, Value], ...]) -> str:
    if len(subnet) > _MAX_SHOWN:
        return f"{len(subnet)} axes"
    return " ".join(f"{axis}={value}" for axis, value in subnet)


def _show_rates(results: Results) -> None:
    columns = (
        "case",
        "server on",
        "batch",
        "core",
        "bare rows/s",
        "requests/s",
        "ratio",
        "rounds",
        "CPU ratio",
        "rounds",
    )
    rows = [
        [
            *where,
            f"{_median(rounds, lambda one: one.full.batch):.1f}",
            f"{_median(rounds, lambda one: one.core):.2f}",
            f"{_median(rounds, lambda one: one.bare.rows_per_s):.0f}",
            f"{_median(rounds, lambda one: one.full.requests_per_s):.0f}",
            f"{_median(rounds, lambda one: one.ratio):.2f}",
            _spread(rounds, lambda one: one.ratio),
            f"{_median(rounds, lambda one: one.cpu_ratio):.2f}",
            _spread(rounds, lambda one: one.cpu_ratio),
        ]
        for where, rounds in results.rounds.items()
    ]
    title = f"Server over bare kernel, closed loop of {results.connections} connections"
    report.show(title, columns, rows)


def _show_cpu(results: Results) -> None:
    columns = (
        "case",
        "server on",
        "kernel",
        "engine",
        "event loop",
        "decoding",
        "beyond",
        "rounds",
        "cores",
        "client",
    )
    rows = [
        [
            *where,
            f"{1000 * _median(rounds, lambda one: one.bare.cpu_ms):.0f}",
            f"{1000 * _median(rounds, lambda one: one.full.engine_ms):.0f}",
            f"{1000 * _median(rounds, lambda one: one.full.loop_ms):.0f}",
            f"{1000 * _median(rounds, lambda one: one.full.decoding_ms):.0f}",
            f"{_median(rounds, lambda one: one.beyond_us):.0f}",
            _spread(rounds, lambda one: one.beyond_us, 0),
            f"{_median(rounds, lambda one: one.full.server_cores):.2f}",
            f"{1000 * _median(rounds, lambda one: one.full.client_ms):.0f}",
        ]
        for where, rounds in results.rounds.items()
    ]
    report.show("CPU time for each row or request at that load, microseconds", columns, rows)


def _show_latency(results: Results) -> None:
    columns = (
        "case",
        "server on",
        "run",
        "decode, run",
        "server",
        "added",
        "rounds",
        "to both",
        "less client",
    )
    rows = [
        [
            *where,
            f"{_median(rounds, lambda one: one.alone.run_ms):.2f}",
            f"{_median(rounds, lambda one: one.alone.whole_ms):.2f}",
            f"{_median(rounds, lambda one: one.lone.p50_ms):.2f}",
            f"{_median(rounds, lambda one: one.added_ms):.2f}",
            _spread(rounds, lambda one: one.added_ms),
            f"{_median(rounds, lambda one: one.added_to_both_ms):.2f}",
            f"{_median(rounds, lambda one: one.added_to_both_ms - one.lone.client_ms):.2f}",
        ]
        for where, rounds in results.rounds.items()
    ]
    report.show("One connection, p50 in milliseconds", columns, rows)


def _show_stages(results: Results) -> None:
    *stages, total = STAGES
    columns = ("case", "server on", *stages, "other", "HTTP, JSON, client", "p50")
    rows = []
    for where, rounds in results.rounds.items():
        median = {
            stage: statistics.median(one.lone.stages_ms[stage] for one in rounds)
            for stage in STAGES
        }
        spent, inside = [median[stage] for stage in stages], median[total]
        whole = _median(rounds, lambda one: one.lone.p50_ms)
        rest = [inside - sum(spent), whole - inside, whole]
        rows.append([*where, *(f"{value:.3f}" for value in (*spent, *rest))])
    report.show(
        "Where a lone request's time goes, as its receipt tells, milliseconds", columns, rows
    )


def _median(rounds: Sequence[Round], figure: Callable[[Round], float]) -> float:
    return statistics.median(map(figure, rounds))


def _spread(rounds: Sequence[Round], figure: Callable[[Round], float], digits: int = 2) -> str:
    every = [figure(one) for one in rounds]
    return f"{min(every):.{digits}f}..{max(every):.{digits}f}"

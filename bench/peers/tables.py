"""What was found, and the tables that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from bench import report
from bench.peers.contenders import SAME_WEIGHTS, Contender, Way
from bench.peers.load import Figures

_COLUMNS = (
    "server",
    "requests/s",
    "all rounds",
    "corrected",
    "p50 ms",
    "p99 ms",
    "CPU ms",
    "of rheostat",
    "of best peer",
)


class Load(NamedTuple):
    """A kind of load and how much: connections, or the fraction of a server's own best rate."""

    kind: Literal["closed", "open"]
    level: float


@dataclass
class Results:
    """Everything found so far.

    Attributes:
        contenders: Whether measured or not.
        absent: Why one was not measured, or not to the end, by its name.
        cosines: The smallest to sentence-transformers, by the name of a way that must match.
        receipts: Of one answer, by the name of the way; Rheostat's alone.
        runs: One per round, by the name of the way and the load.
    """

    contenders: Sequence[Contender]
    absent: dict[str, str] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[tuple[str, Load], list[Figures]] = field(default_factory=dict)

    def note(self, way: Way, cosine: float, receipt: dict[str, Any] | None) -> None:
        """Keep what a check has shown."""
        if way.must_match:
            self.cosines[way.name] = min(cosine, self.cosines.get(way.name, 1.0))
        if receipt is not None:
            self.receipts[way.name] = receipt

    def add(self, way: Way, load: Load, figures: Figures) -> None:
        """Keep what a load has shown."""
        self.runs.setdefault((way.name, load), []).append(figures)

    def median(self, way: str, load: Load) -> Figures | None:
        """Return the round with the median rate; None if there was none."""
        runs = sorted(self.runs.get((way, load), ()), key=lambda run: run.requests_per_s)
        return runs[len(runs) // 2] if runs else None

    def figures(self) -> dict[str, Any]:
        """Return all of it for a file."""
        return {
            "software": {one.name: one.software for one in self.contenders},
            "absent": self.absent,
            "least cosine": self.cosines,
            "receipts": self.receipts,
            "runs": [
                {"server": way, "load": load.kind, "level": load.level, **asdict(run)}
                for (way, load), runs in self.runs.items()
                for run in runs
            ],
        }


def show(results: Results, num_texts: int) -> None:
    """Print all tables.

    Args:
        results: Of all rounds.
        num_texts: That vectors were compared on.
    """
    checked = [
        [way.name, one.software, f"{results.cosines[way.name]:.6f}"]
        for one in results.contenders
        for way in one.ways
        if way.name in results.cosines
    ]
    title = f"Smallest cosine to sentence-transformers' vectors, {num_texts} texts"
    report.show(title, ["server", "software", "cosine"], checked)
    _show_receipts(results)
    for load in dict.fromkeys(load for _, load in results.runs):
        if load.kind == "closed":
            title = f"Closed loop, connections: {load.level}"
        else:
            title = f"Open loop, at {load.level} of each server's own rate with most connections"
        _show_load(results, load, title)
    if results.absent:
        missing = [[name, why] for name, why in results.absent.items()]
        report.show("Not measured, or not to the end", ["server", "why"], missing)


def _show_receipts(results: Results) -> None:
    rows = [
        [
            way,
            " ".join(f"{axis}={value}" for axis, value in receipt["subnet"].items()),
            f"{receipt['fraction']:.3f}",
            f"{receipt['quality']:.4f}",
            receipt["backend"],
        ]
        for way, receipt in results.receipts.items()
    ]
    report.show(
        "What Rheostat ran", ["server", "subnet", "fraction", "retention", "back end"], rows
    )


def _show_load(results: Results, load: Load, title: str) -> None:
    """Print a load's table; ratios are of the rates as seen."""
    found = {
        way.name: (run, one.is_peer)
        for one in results.contenders
        for way in one.ways
        if (run := results.median(way.name, load))
    }
    best = max((run.requests_per_s for run, is_peer in found.values() if is_peer), default=None)
    ours = found[SAME_WEIGHTS][0].requests_per_s if SAME_WEIGHTS in found else None
    rows = []
    for name, (run, _) in found.items():
        every = [one.requests_per_s for one in results.runs[name, load]]
        rows.append(
            [
                name,
                f"{run.requests_per_s:.1f}",
                f"{min(every):.0f}-{max(every):.0f}",
                f"{run.corrected_per_s:.1f}",
                f"{run.p50_ms:.1f}",
                f"{run.p99_ms:.1f}",
                f"{run.server_ms:.2f}",
                _ratio(run.requests_per_s, ours),
                _ratio(run.requests_per_s, best),
            ]
        )
    report.show(title, _COLUMNS, rows)


def _ratio(rate: float, other: float | None) -> str:
    return f"{rate / other:.2f}" if other else "-"

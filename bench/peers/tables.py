"""The tables that show what was found: vectors equal to float32, and vectors that are not."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench import report
from bench.peers.contenders import SAME_WEIGHTS
from bench.peers.load import Figures
from bench.peers.results import Check, Load, Results
from bench.peers.sameness import LEAST_COSINE, LEAST_RETENTION

_COLUMNS = ("server", "requests/s", "p50 ms", "p99 ms", "CPU ms", "others", "x rheostat")
_FP32, _REDUCED, _BELOW = (
    f"equal to float32 (cosine >= {LEAST_COSINE})",
    f"reduced (>= {LEAST_RETENTION:.0%} of each full score)",
    f"below {LEAST_RETENTION:.0%} of a full score, or not scored",
)


class _Best(NamedTuple):
    """Rates of the best peers under one load; None where no peer was measured.

    Attributes:
        fp32: Of those in float32.
        reduced: Of those that compute less.
    """

    fp32: float | None
    reduced: float | None


def show(results: Results, num_texts: int) -> None:
    """Print all tables; the last columns are rates over those of Rheostat and of the best peers.

    Args:
        results: Of all rounds.
        num_texts: That vectors were compared on.
    """
    _show_checks(results, num_texts)
    _show_receipts(results)
    for load in dict.fromkeys(load for _, load in results.runs):
        if load.kind == "closed":
            title = f"Closed loop, connections: {load.level:g}"
        else:
            title = f"Open loop, {load.level:.0%} of each server's own rate with most connections"
        for group in (_FP32, _REDUCED, _BELOW):
            rows = _rows(results, load, group)
            if rows:
                columns = [*_COLUMNS, "x fp32 peer", "x int8 peer"]
                report.show(f"{title}; {group}", columns, rows)
    if results.absent:
        missing = [[name, why] for name, why in results.absent.items()]
        report.show("Not measured, or not to the end", ["server", "why"], missing)


def group_of(check: Check | None, is_reduced: bool) -> str:
    """Return the table that a way of asking belongs in."""
    if check is None:
        return _BELOW
    if not is_reduced:
        return _FP32
    retention = check.retention()
    return _REDUCED if retention is not None and retention >= LEAST_RETENTION else _BELOW


def spread(values: Sequence[float], digits: int) -> str:
    """Return the smallest, the median and the largest of the rounds; one round is told once."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    middle = statistics.median(values)
    return " / ".join(f"{value:.{digits}f}" for value in (min(values), middle, max(values)))


def _show_checks(results: Results, num_texts: int) -> None:
    names = list(dict.fromkeys(name for check in results.checks.values() for name in check.scores))
    rows: list[list[object]] = []
    for one in results.contenders:
        for way in one.ways:
            if (check := results.checks.get(way.name)) is not None:
                scores = [
                    f"{check.scores[name]:.4f} of {check.full[name]:.4f}"
                    if name in check.scores
                    else "-"
                    for name in names
                ]
                retention = check.retention()
                kept = "-" if retention is None else f"{retention:.3f}"
                rows.append([way.name, one.software, f"{check.cosine:.6f}", *scores, kept])
    columns = ["server", "software", "cosine", *names, "least kept"]
    report.show(f"Smallest cosine to the whole model in float32, {num_texts} texts", columns, rows)


def _show_receipts(results: Results) -> None:
    rows = [
        [
            way,
            " ".join(f"{axis}={value}" for axis, value in check.receipt["subnet"].items()),
            f"{check.receipt['fraction']:.3f}",
            f"{check.receipt['quality']:.4f}",
            check.receipt["backend"],
        ]
        for way, check in results.checks.items()
        if check.receipt is not None
    ]
    if rows:
        columns = ["server", "subnet", "fraction", "retention", "back end"]
        report.show("What Rheostat ran", columns, rows)


def _rows(results: Results, load: Load, group: str) -> list[list[object]]:
    """Return the rows of one table; ratios are of median rates as seen."""
    found: dict[str, list[Figures]] = {}
    rates: dict[str, list[float]] = {_FP32: [], _REDUCED: [], _BELOW: []}
    ours: float | None = None
    for one in results.contenders:
        for way in one.ways:
            runs = list(results.runs.get((way.name, load), {}).values())
            if not runs:
                continue
            own = group_of(results.checks.get(way.name), way.is_reduced)
            if own == group:
                found[way.name] = runs
            if one.is_peer:
                rates[own].append(_rate(runs))
            elif way.name == SAME_WEIGHTS:
                ours = _rate(runs)
    best = _Best(*(max(rates[kind], default=None) for kind in (_FP32, _REDUCED)))
    return [
        [
            name,
            spread([run.requests_per_s for run in runs], 0),
            spread([run.p50_ms for run in runs], 1),
            spread([run.p99_ms for run in runs], 1),
            f"{statistics.median(run.server_ms for run in runs):.2f}",
            f"{max(run.others for run in runs):.1%}",
            *(_ratio(_rate(runs), other) for other in (ours, best.fp32, best.reduced)),
        ]
        for name, runs in found.items()
    ]


def _rate(runs: Sequence[Figures]) -> float:
    return statistics.median(run.requests_per_s for run in runs)


def _ratio(rate: float, other: float | None) -> str:
    return f"{rate / other:.2f}" if other else "-"

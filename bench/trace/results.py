"""What was found: cells, their CSV and JSON, and how the price stands beside each other policy."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from bench.trace.arrivals import Arrivals
from bench.trace.bound import Bound
from bench.trace.policies import PRICE
from bench.trace.tally import Tally

NOISE = 0.005  # what lies closer together is taken for equal: one request in 200
_KEYS = ("arrivals", "seed", "load", "policy", "rate", "cell_s")
_BOUNDS = ("bound_goodput", "bound_attainment", "bound_quality")
COLUMNS = (*_KEYS, *(one.name for one in fields(Tally)), *_BOUNDS)


@dataclass(frozen=True)
class Cell:
    """One policy under one load of one pattern.

    Attributes:
        arrivals: Name of the pattern.
        seed: Of the pattern; of a trace, which is the same each time, the number of the run.
        load: Mean rate, by the capacity at the full model.
        policy: Name of the policy.
        rate: Mean rate in requests per second.
        cell_s: From the first arrival to the last.
        tally: What became of the requests.
    """

    arrivals: str
    seed: int
    load: float
    policy: str
    rate: float
    cell_s: float
    tally: Tally


@dataclass
class Results:
    """Everything found.

    Attributes:
        capacity: Requests per second of a closed loop at the full model.
        alone_ms: Median latency of one request after the other at the full model.
        slo_s: The objective: seconds from due to answered.
        num_tokens: Of every text.
        patterns: By name and seed.
        cells: In the order they were run.
        service: Of each subnet: what it is, milliseconds a text and quality, as bounds take them.
        limits: What would have been possible, by pattern, seed and load.
    """

    capacity: float
    alone_ms: float
    slo_s: float
    num_tokens: int
    patterns: dict[tuple[str, int], Arrivals]
    cells: list[Cell] = field(default_factory=list)
    service: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[tuple[str, int, float], Bound] = field(default_factory=dict)

    def limit(self, cell: Cell) -> Bound:
        """Return what would have been possible in a cell."""
        return self.limits[cell.arrivals, cell.seed, cell.load]

    def row(self, cell: Cell) -> dict[str, Any]:
        """Return all figures of a cell by name, one for each of `COLUMNS`."""
        limit = self.limit(cell)
        keys = {name: getattr(cell, name) for name in _KEYS}
        # The last one at this policy's own share of requests in time.
        bounds = (limit.goodput, limit.attainment, limit.quality(cell.tally.attainment))
        return {**keys, **asdict(cell.tally), **dict(zip(_BOUNDS, bounds, strict=True))}

    def figures(self) -> dict[str, Any]:
        """Return all of it for a file."""
        return {
            "capacity": self.capacity,
            "alone_ms": self.alone_ms,
            "slo_ms": 1000 * self.slo_s,
            "tokens": self.num_tokens,
            "arrivals": [
                {"name": name, "seed": seed, "origin": one.origin, "cv2": one.cv2}
                for (name, seed), one in self.patterns.items()
            ],
            "service": self.service,
            "bounds": [
                {"arrivals": name, "seed": seed, "load": load, "corners": limit.corners}
                for (name, seed, load), limit in self.limits.items()
            ],
            "cells": [self.row(cell) for cell in self.cells],
        }

    def write_csv(self, path: Path) -> None:
        """Write one line per cell; what does not exist is left empty."""
        with path.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, COLUMNS)
            writer.writeheader()
            writer.writerows(self.row(cell) for cell in self.cells)

    def above_bound(self) -> list[Cell]:
        """Return cells that did better than possible: the subnets were timed at a slow moment."""
        return [cell for cell in self.cells if cell.tally.goodput > self.limit(cell).goodput + 1e-9]


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: Of one figure for each seed.
        stderr: Of the mean; None for one seed.
    """

    mean: float
    stderr: float | None

    @classmethod
    def of(cls, figures: Sequence[float]) -> Estimate:
        """Estimate from at least one figure."""
        spread = statistics.stdev(figures) / math.sqrt(len(figures)) if figures[1:] else None
        return cls(statistics.fmean(figures), spread)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ±{self.stderr:.4f}" if self.stderr is not None else "")

    @property
    def sign(self) -> int:
        """1 above zero, -1 below, 0 where noise may explain it."""
        noise = max(NOISE, self.stderr or 0.0)
        return 0 if abs(self.mean) <= noise else 1 if self.mean > 0 else -1


class Standing(NamedTuple):
    """Price beside the best other policy under one load of one pattern, in goodput.

    Attributes:
        arrivals: Name of the pattern.
        load: Mean rate, by the capacity at the full model.
        other: The best of the others, by its mean over seeds.
        lead: Of the price over it, seed by seed.
        of_bound: Goodput of the price, as a part of what would have been possible.
    """

    arrivals: str
    load: float
    other: str
    lead: Estimate
    of_bound: float


def standings(found: Results) -> list[Standing]:
    """Compare cell by cell; empty if the price or all others were not run."""
    goodput: dict[tuple[str, float], dict[str, list[float]]] = {}
    limits: dict[tuple[str, float], list[float]] = {}
    for cell in found.cells:
        of_policy = goodput.setdefault((cell.arrivals, cell.load), {})
        of_policy.setdefault(cell.policy, []).append(cell.tally.goodput)
        if cell.policy == PRICE:
            limit = found.limit(cell).goodput
            limits.setdefault((cell.arrivals, cell.load), []).append(limit)
    judged = []
    for (arrivals, load), of_policy in goodput.items():
        others = {name: each for name, each in of_policy.items() if name != PRICE}
        if PRICE not in of_policy or not others:
            continue
        price = of_policy[PRICE]
        best = max(others, key=lambda name: statistics.fmean(others[name]))
        lead = Estimate.of([a - b for a, b in zip(price, others[best], strict=True)])
        of_bound = statistics.fmean(price) / statistics.fmean(limits[arrivals, load])
        judged.append(Standing(arrivals, load, best, lead, of_bound))
    return judged

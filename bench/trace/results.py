"""What was found: cells, their CSV and JSON, and whether the price keeps up with SlackFit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.trace.arrivals import Arrivals
from bench.trace.bound import Bound
from bench.trace.policies import PRICE, SLACKFIT
from bench.trace.tally import Tally

NOISE = 0.005  # what lies closer together is taken for equal: one request in 200
_KEYS = ("arrivals", "load", "policy", "rate", "cell_s")
_BOUNDS = ("bound_goodput", "bound_attainment", "bound_quality")
COLUMNS = (*_KEYS, *(one.name for one in fields(Tally)), *_BOUNDS)


@dataclass(frozen=True)
class Cell:
    """One policy under one load of one pattern.

    Attributes:
        arrivals: Name of the pattern.
        load: Mean rate, by the capacity at the full model.
        policy: Name of the policy.
        rate: Mean rate in requests per second.
        cell_s: From the first arrival to the last.
        tally: What became of the requests.
    """

    arrivals: str
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
        patterns: By name.
        cells: In the order they were run.
        service: Of each subnet: what it is, milliseconds a text and quality, as bounds take them.
        limits: What would have been possible, by pattern and load.
    """

    capacity: float
    alone_ms: float
    slo_s: float
    num_tokens: int
    patterns: dict[str, Arrivals]
    cells: list[Cell] = field(default_factory=list)
    service: list[dict[str, Any]] = field(default_factory=list)
    limits: dict[tuple[str, float], Bound] = field(default_factory=dict)

    def limit(self, cell: Cell) -> Bound:
        """Return what would have been possible in a cell."""
        return self.limits[cell.arrivals, cell.load]

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
            "arrivals": {
                one.name: {"origin": one.origin, "cv2": one.cv2} for one in self.patterns.values()
            },
            "service": self.service,
            "bounds": [
                {"arrivals": name, "load": load, "corners": limit.corners}
                for (name, load), limit in self.limits.items()
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


@dataclass(frozen=True)
class Verdict:
    """Price beside SlackFit under one load: differences by pattern, above 0 where price leads.

    Attributes:
        load: Mean rate, by the capacity at the full model.
        goodput: Of the sum of quality by all requests.
        attainment: Of the share in time.
        quality: Of the mean quality of those; left out where one policy met none.
    """

    load: float
    goodput: dict[str, float]
    attainment: dict[str, float]
    quality: dict[str, float]

    @property
    def line(self) -> str:
        """The verdict in words."""
        num_on_or_above = sum(gain >= -NOISE for gain in self.goodput.values())
        num_in_both = sum(
            min(gain, self.quality.get(name, 0.0)) >= -NOISE
            for name, gain in self.attainment.items()
        )
        shown = ", ".join(f"{name} {gain:+.4f}" for name, gain in self.goodput.items())
        return (
            f"load {self.load:g}: price is on or above slackfit in goodput for {num_on_or_above} "
            f"of {len(self.goodput)} arrivals ({shown}), in attainment at no lower quality for "
            f"{num_in_both}"
        )


def verdicts(cells: Sequence[Cell]) -> list[Verdict]:
    """Compare both policies load by load; empty if one of them was not run."""
    found = {(cell.load, cell.arrivals, cell.policy): cell.tally for cell in cells}
    judged = []
    for load in dict.fromkeys(cell.load for cell in cells):
        pairs = {
            name: (found[load, name, PRICE], found[load, name, SLACKFIT])
            for name in dict.fromkeys(cell.arrivals for cell in cells)
            if {(load, name, PRICE), (load, name, SLACKFIT)} <= found.keys()
        }
        if pairs:
            judged.append(
                Verdict(
                    load,
                    {name: a.goodput - b.goodput for name, (a, b) in pairs.items()},
                    {name: a.attainment - b.attainment for name, (a, b) in pairs.items()},
                    {
                        name: a.quality - b.quality
                        for name, (a, b) in pairs.items()
                        if a.quality is not None and b.quality is not None
                    },
                )
            )
    return judged

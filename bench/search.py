"""Latency of one search on the shipped model: every request with preferences never seen before."""

from __future__ import annotations

import time
from random import Random

import numpy as np

from bench import report
from models import checkpoint
from search.budget import Budget, InfeasibleBudgetError
from search.find import TOLERANCE, Finder
from search.table import TABLE, Table


def main() -> None:
    """Time `Finder.find` one call after the other, on one thread."""
    options = report.parser(__doc__).parse_args()
    count = 2_000 if options.quick else 10_000
    model = checkpoint.load(report.ZOO).model
    table = Table.load(report.ZOO / TABLE, model.space, list(model.tasks))
    finder = Finder(model, model.input.shape, table)
    kinds = {
        "fraction": lambda rng: Budget(fraction=rng.uniform(0.07, 1)),
        "min_quality": lambda rng: Budget(min_quality=rng.uniform(0.8, 0.98)),
    }
    rows = []
    for kind, draw in kinds.items():
        for tolerance in (TOLERANCE, 0.0):
            micros, gaps = _time(finder, draw, tolerance, count)
            p50, p99 = np.percentile(micros, [50, 99])
            rows.append([kind, tolerance, len(micros), p50, p99, float(np.max(gaps))])
    columns = ["budget", "tolerance", "requests", "p50 us", "p99 us", "largest gap"]
    report.show(
        f"One search, {len(finder.tasks)} tasks, {len(finder.grid.rows)} rows", columns, rows
    )
    report.finish({"search": [dict(zip(columns, row, strict=True)) for row in rows]}, options.json)


def _time(
    finder: Finder, draw: object, tolerance: float, count: int
) -> tuple[list[float], list[float]]:
    """Return microseconds and gaps of searches; the first 200 warm up and do not count."""
    assert callable(draw)
    rng, generator = Random(0), np.random.default_rng(0)
    micros, gaps = [], []
    for i in range(count + 200):
        # From nearly one-hot to nearly equal weights.
        weights = generator.dirichlet(np.full(len(finder.tasks), (0.1, 1.0, 10.0)[i % 3]))
        preferences = dict(zip(finder.tasks, weights.tolist(), strict=True))
        budget = draw(rng)
        started = time.perf_counter()
        try:
            selection = finder.find(None, preferences, budget, tolerance)
        except InfeasibleBudgetError:
            continue
        taken = time.perf_counter() - started
        if i >= 200:
            micros.append(1e6 * taken)
            gaps.append(selection.gap)
    return micros, gaps


if __name__ == "__main__":
    main()

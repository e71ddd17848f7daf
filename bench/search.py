"""Latency of one search on the shipped model, on one thread, of new and of repeated questions."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import numpy as np

from bench import report
from search.budget import Budget, InfeasibleBudgetError
from search.find import TOLERANCE, Finder
from server import catalog

Draw = Callable[[Random], Budget]


def main() -> None:
    """Time `Finder.find` one call after the other, on one thread."""
    options = report.parser(__doc__).parse_args()
    count = 2_000 if options.quick else 10_000
    finder = catalog.load(report.ZOO).choose(None).finder
    kinds: dict[str, Draw] = {
        "fraction": lambda rng: Budget(fraction=rng.uniform(0.07, 1)),
        "min_quality": lambda rng: Budget(min_quality=rng.uniform(0.8, 0.98)),
    }
    rows: list[list[object]] = []
    for kind, draw in kinds.items():
        for tolerance, distinct in ((TOLERANCE, count), (0.0, count), (TOLERANCE, 500)):
            micros, gaps = _time(finder, draw, tolerance, count, distinct)
            p50, p99 = np.percentile(micros, [50, 99]).tolist()
            what = "all different" if distinct == count else f"{distinct} repeated"
            rows.append([kind, what, tolerance, len(micros), p50, p99, max(gaps)])
    columns = ["budget", "questions", "tolerance", "searches", "p50 us", "p99 us", "largest gap"]
    report.show(
        f"One search, {len(finder.tasks)} tasks, {len(finder.grid.rows)} rows", columns, rows
    )
    report.finish({"search": [dict(zip(columns, row, strict=True)) for row in rows]}, options.json)


def _time(
    finder: Finder, draw: Draw, tolerance: float, count: int, distinct: int
) -> tuple[list[float], list[float]]:
    """Return microseconds and gaps of searches; the first round over the questions warms up.

    Args:
        finder: Searched one call after the other.
        draw: Draws budgets.
        tolerance: Of the search.
        count: Searches timed.
        distinct: Different questions; if as many as searches, none is asked twice.
    """
    rng, generator = Random(0), np.random.default_rng(0)
    warm_up = 200 if distinct == count else distinct
    questions = []
    for i in range(warm_up + count if distinct == count else distinct):
        # From nearly one-hot to nearly equal weights.
        weights = generator.dirichlet(np.full(len(finder.tasks), (0.1, 1.0, 10.0)[i % 3]))
        questions.append((dict(zip(finder.tasks, weights.tolist(), strict=True)), draw(rng)))
    micros, gaps = [], []
    for i in range(warm_up + count):
        preferences, budget = questions[i % len(questions)]
        started = time.perf_counter()
        try:
            selection = finder.find(None, preferences, budget, tolerance)
        except InfeasibleBudgetError:
            continue
        taken = time.perf_counter() - started
        if i >= warm_up:
            micros.append(1e6 * taken)
            gaps.append(selection.gap)
    return micros, gaps


if __name__ == "__main__":
    main()

"""Latency of one search on the shipped models, on one thread: questions asked before and new ones.

For text also of lengths that were never seen, each of which has a search of its own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from bench import report
from models.core import Shapes
from search.budget import Budget, InfeasibleBudgetError
from search.find import TOLERANCE, Finder
from search.finders import Finders
from search.terms import Terms
from search.timing.profile import LatencyProfile
from search.timing.timing import Timing
from server import catalog
from server.served import Served

_ASKED_BEFORE = 100  # different questions, fewer than a finder keeps
_WARM_UP = 200


@dataclass(frozen=True)
class Question:
    """What a request asks of a search.

    Attributes:
        shapes: Of its longest item; None for the largest.
        preferences: Weight of each task.
        budget: Its limits.
        terms: With a timing where the budget has a latency.
        tolerance: As for `Finder.find`.
    """

    shapes: Shapes | None
    preferences: dict[str, float]
    budget: Budget
    terms: Terms = Terms()  # noqa: RUF009  # immutable
    tolerance: float = TOLERANCE


Draw = Callable[[Random, Finder], tuple[Budget, Terms]]


def main() -> None:
    """Time `Finders.at` and `Finder.find` one call after the other, on one thread."""
    options = report.parser(__doc__).parse_args()
    count = 1_000 if options.quick else 5_000
    records: list[dict[str, object]] = []
    for folder in report.ZOO_ALL:
        served = catalog.load(folder).choose(None)
        gc.collect()
        gc.freeze()  # as a server does when it is ready
        rows = list(_rows(served, count))
        title = f"One search of {served.name}: {len(served.finder.tasks)} tasks, "
        title += f"{len(served.table.rows)} rows"
        report.show(
            title,
            ["budget", "questions", "searches", "p50 us", "p99 us", "p99 CPU us", "gap"],
            rows,
        )
        columns = (
            "budget",
            "questions",
            "searches",
            "p50_us",
            "p99_us",
            "p99_cpu_us",
            "largest_gap",
        )
        records += [{"model": served.name, **dict(zip(columns, row, strict=True))} for row in rows]
    report.finish({"search": records}, options.json)


def _rows(served: Served, count: int) -> Iterator[list[object]]:
    """Yield for each kind of budget and question how long a search takes."""
    draws: dict[str, Draw] = {
        "fraction": lambda rng, _: (Budget(fraction=rng.uniform(0.07, 1)), Terms()),
        "min_quality": lambda rng, _: (Budget(min_quality=rng.uniform(0.8, 0.98)), Terms()),
        "latency": _in_time(_profile(served)),
    }
    for kind, draw in draws.items():
        finders = served.finders
        drawn = _questions(finders, draw, _WARM_UP + count)
        exact = [replace(question, tolerance=0.0) for question in drawn]
        repeated = [drawn[i % _ASKED_BEFORE] for i in range(_WARM_UP + count)]
        for what, questions in (("new", drawn), ("new, exact", exact), ("repeated", repeated)):
            yield [kind, what, *_time([finders] * len(questions), questions)]
        if served.inputs.has_length:
            yield [kind, "new length", *_time_lengths(served, draw, count)]


def _time_lengths(served: Served, draw: Draw, count: int) -> tuple[int, float, float, float, float]:
    """Time questions each of which has a length that its finders never saw."""
    longest = served.inputs.num_tokens(served.inputs.plan_shapes())
    questions = _questions(served.finders, draw, _WARM_UP + count)
    lengths = list(range(1, longest + 1))
    Random(1).shuffle(lengths)
    of_length = [
        replace(question, shapes=served.inputs.plan_shapes(lengths[i % longest]))
        for i, question in enumerate(questions)
    ]
    # Whoever has seen every length is replaced by one who has seen none.
    fresh = [Finders(served.elastic, served.table) for _ in range(1 + len(questions) // longest)]
    gc.freeze()
    return _time([fresh[i // longest] for i in range(len(questions))], of_length)


def _questions(finders: Finders, draw: Draw, count: int) -> list[Question]:
    """Draw questions whose weights are nearly one-hot to nearly equal."""
    rng, generator, finder = Random(0), np.random.default_rng(0), finders.at()
    questions = []
    for i in range(count):
        weights = generator.dirichlet(np.full(len(finder.tasks), (0.1, 1.0, 10.0)[i % 3]))
        preferences = dict(zip(finder.tasks, weights.tolist(), strict=True))
        questions.append(Question(None, preferences, *draw(rng, finder)))
    return questions


def _time(
    finders: Sequence[Finders], questions: Sequence[Question]
) -> tuple[int, float, float, float, float]:
    """Return the number of searches, p50 and p99 in microseconds, and the largest gap.

    The processor's time leaves out what else the machine does meanwhile.

    Args:
        finders: For each question its own.
        questions: The first of them warm up.
    """
    micros, cpu_micros, gaps = [], [], []
    for i, (own, question) in enumerate(zip(finders, questions, strict=True)):
        started, cpu_started = time.perf_counter(), time.thread_time()
        try:
            found = own.at(question.shapes).find(
                None, question.preferences, question.budget, question.tolerance, question.terms
            )
        except InfeasibleBudgetError:
            continue
        taken, cpu_taken = time.perf_counter() - started, time.thread_time() - cpu_started
        if i >= _WARM_UP:
            micros.append(1e6 * taken)
            cpu_micros.append(1e6 * cpu_taken)
            gaps.append(found.gap)
    p50, p99 = np.percentile(micros, [50, 99]).tolist()
    return len(micros), p50, p99, float(np.percentile(cpu_micros, 99)), max(gaps)


def _profile(served: Served) -> LatencyProfile:
    """Return times that grow with rows and length and differ by function at random."""
    rng = np.random.default_rng(0)
    functions = sorted(served.finders.functions, key=repr)
    lengths = (8, 32, 128) if served.inputs.has_length else (0,)
    base = rng.uniform(0.2e-3, 0.6e-3, (len(functions), 1, 1))
    by_rows = np.array([1.0, 3.0, 10.0])[:, None]
    by_length = np.array([max(1.0, length / 8) for length in lengths])
    curves = {function: i for i, function in enumerate(functions)}
    return LatencyProfile(curves, (1, 4, 16), lengths, base * by_rows * by_length)


def _in_time(profile: LatencyProfile) -> Draw:
    """Return what draws latencies that the best subnet mostly exceeds."""

    def draw(rng: Random, finder: Finder) -> tuple[Budget, Terms]:
        timing = Timing.of(profile, 1)
        whole = finder.find(terms=Terms(timing=timing)).seconds
        assert whole is not None
        limit = whole * rng.uniform(0.3, 1.1)
        return Budget(latency_ms=1000 * limit), Terms(0.0, timing, limit)

    return draw


if __name__ == "__main__":
    main()

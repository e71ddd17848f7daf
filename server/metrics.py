"""What Prometheus is told. All metric names are here; every series starts at 0."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from search.budget import InfeasibleBudgetError
from search.find import RequestError, Selection
from server.errors import ClientError, ClientGoneError, InfeasibleError, OverloadedError

# 0.1 ms to 10 s, four to a decade: model servers answer in milliseconds.
_SECONDS = tuple(float(f"{10 ** (k / 4):.3g}") for k in range(-16, 5))
_QUALITY = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 1.0)
_NO_MODEL = "none"  # requests that name no model that is served; a name clients cannot choose


class Stage(StrEnum):
    """A part of a request's life."""

    DECODE = "decode"
    SEARCH = "search"
    QUEUE = "queue"
    RUN = "run"
    TOTAL = "total"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    INVALID = "invalid"
    INFEASIBLE = "infeasible"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass
class Tally:
    """What is known about a request in progress."""

    model: str = _NO_MODEL


class Metrics:
    """One app's metrics, in a registry of their own."""

    def __init__(self, models: Collection[str], max_batch_size: int) -> None:
        """Create every series.

        Args:
            models: Names in the catalogue: the only models that get series.
            max_batch_size: The last bucket of batch sizes.
        """
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "rheostat_requests",
            "Inference requests by how they ended.",
            ["model", "outcome"],
            registry=registry,
        )
        self._flops = Counter(
            "rheostat_flops_spent",
            "Floating-point operations of answered requests (2 x MACs).",
            ["model"],
            registry=registry,
        )
        self._stages = Histogram(
            "rheostat_stage_seconds",
            "Time of answered requests by stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._quality = Histogram(
            "rheostat_quality_served",
            "Preference-weighted retention of the subnets that answered.",
            ["model"],
            buckets=_QUALITY,
            registry=registry,
        )
        sizes = [2**k for k in range(max_batch_size.bit_length()) if 2**k < max_batch_size]
        self._batch_size = Histogram(
            "rheostat_batch_size",
            "Inputs run together.",
            buckets=[*sizes, max_batch_size],
            registry=registry,
        )
        self._depth = Gauge(
            "rheostat_queue_depth",
            "Inputs admitted and not yet answered; refusals start at max_queue.",
            registry=registry,
        )
        for model in (*models, _NO_MODEL):
            for outcome in Outcome:
                self._requests.labels(model, outcome)
        for model in models:
            self._flops.labels(model)
            self._quality.labels(model)
        for stage in Stage:
            self._stages.labels(stage)

    def watch_depth(self, depth: Callable[[], float]) -> None:
        """Read the queue's depth from a function whenever metrics are read."""
        self._depth.set_function(depth)

    @contextmanager
    def request(self) -> Iterator[Tally]:
        """Count one request, under the model written into the tally, by how the block ends."""
        tally = Tally()
        outcome = Outcome.OK
        try:
            yield tally
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            self._requests.labels(tally.model, outcome).inc()

    def batch(self, size: int) -> None:
        """Record that a batch was run."""
        self._batch_size.observe(size)

    def answered(self, model: str, selection: Selection, num_images: int) -> None:
        """Record what an answer cost and was worth."""
        self._flops.labels(model).inc(selection.cost.flops * num_images)
        self._quality.labels(model).observe(selection.quality)

    def stage(self, stage: Stage, seconds: float) -> None:
        """Record how long a stage took."""
        self._stages.labels(stage).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


def _outcome(error: BaseException) -> Outcome:
    match error:
        case InfeasibleError() | InfeasibleBudgetError():
            return Outcome.INFEASIBLE
        case OverloadedError():
            return Outcome.REFUSED
        case ClientGoneError() | asyncio.CancelledError():
            return Outcome.CANCELLED
        case ClientError() | RequestError():
            return Outcome.INVALID
    return Outcome.FAILED

"""What Prometheus is told. Every series starts at 0; those of clients are in `clients.counters`."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from search.budget import InfeasibleBudgetError
from search.find import RequestError
from server.choose import Choice
from server.clients.counters import ClientCounters
from server.errors import (
    ClientError,
    ClientGoneError,
    DeadlineError,
    HeadTooLargeError,
    InfeasibleError,
    MalformedRequestError,
    OverloadedError,
    RequestTimeoutError,
    RheostatError,
)
from server.observe.series import Count, Counter, Distribution, Histogram
from server.served import Served

# 0.1 ms to 10 s, four to a decade: model servers answer in milliseconds.
_SECONDS = tuple(float(f"{10 ** (k / 4):.3g}") for k in range(-16, 5))
_QUALITY = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98, 0.99, 1.0)
_SAME = 1e-9  # fractions this close are one point of the front
_RATIO = tuple(float(f"{2 ** (k / 4):.3g}") for k in range(-8, 9))  # a quarter to four times
Series = TypeVar("Series", covariant=True)
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
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Latency(StrEnum):
    """What became of a latency budget."""

    MET = "met"
    MISSED = "missed"
    INFEASIBLE = "infeasible"


class _Family(Protocol[Series]):
    """Metrics of one name, told apart by labels."""

    def labels(self, *values: object) -> Series: ...


class Tally:
    """What is known about a request in progress; entered when it begins.

    Attributes:
        model: That it is for.
    """

    def __init__(self, on_end: Callable[[str, BaseException | None], None]) -> None:
        self.model = _NO_MODEL
        self._on_end = on_end

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._on_end(self.model, error)


class _Answers(NamedTuple):
    """Series of a model, found once: each answer counts in ten."""

    flops: Count
    shared: Count
    slimmed: Count
    quality: Distribution
    ratio: Distribution
    stages: Mapping[Stage, Distribution]


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
        self._faults = Counter(
            "rheostat_malformed_requests",
            "What clients sent that is no request: too much, too slow, or not HTTP.",
            ["reason"],
            registry=registry,
        )
        for fault in (MalformedRequestError, HeadTooLargeError, RequestTimeoutError):
            self._faults.labels(fault.error_type)
        self._flops = Counter(
            "rheostat_flops_spent",
            "Floating-point operations of answered requests (2 x MACs).",
            ["model"],
            registry=registry,
        )
        self._shared = Counter(
            "rheostat_flops_shared",
            "Part of the FLOPs spent that was computed once for several equal inputs.",
            ["model"],
            registry=registry,
        )
        self._slimmed = Counter(
            "rheostat_slimmed_requests",
            "Answered requests that got a smaller subnet because others waited.",
            ["model"],
            registry=registry,
        )
        self._adapters = Counter(
            "rheostat_adapter_requests",
            "Answered requests that used an adapter of the model.",
            ["model", "adapter"],
            registry=registry,
        )
        self._subnets = Counter(
            "rheostat_subnets_served",
            "Answered requests by the last point of the Pareto front that costs no more.",
            ["model", "front"],
            registry=registry,
        )
        self._latency = Counter(
            "rheostat_latency_budgets",
            "Latency budgets by what became of them; those of refused requests are not counted.",
            ["model", "outcome"],
            registry=registry,
        )
        self._ratio = Histogram(
            "rheostat_latency_ratio",
            "Total time of answered requests over what was predicted.",
            ["model"],
            buckets=_RATIO,
            registry=registry,
        )
        self._drift = Gauge(
            "rheostat_profile_drift",
            "Time that steps lately took over what their profile predicts, corrections included.",
            ["model"],
            registry=registry,
        )
        self._stages = Histogram(
            "rheostat_stage_seconds",
            "Time of answered requests by stage.",
            ["model", "stage"],
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
        ).labels()
        self._depth = Gauge(
            "rheostat_queue_depth",
            "Inputs admitted and not yet answered; refusals start at max_queue.",
            registry=registry,
        )
        self._backlog = Gauge(
            "rheostat_backlog_seconds",
            "Predicted time of everything admitted and not yet answered.",
            registry=registry,
        )
        self._price = Gauge(
            "rheostat_compute_price",
            "Quality given up for compute worth that of the mean request; 0 without load.",
            registry=registry,
        )
        self.clients = ClientCounters(registry)
        self._kept: dict[tuple[object, ...], Any] = {}
        self._answers: dict[str, _Answers] = {}
        for outcome in Outcome:
            self._requests.labels(_NO_MODEL, outcome)
        for model in models:
            self._create(model)

    def _create(self, model: str) -> _Answers:
        """Create a model's series, at zero, and return those that each answer counts in."""
        for outcome in Outcome:
            self._requests.labels(model, outcome)
        for latency in Latency:
            self._latency.labels(model, latency)
        found = self._answers[model] = _Answers(
            flops=self._flops.labels(model),
            shared=self._shared.labels(model),
            slimmed=self._slimmed.labels(model),
            quality=self._quality.labels(model),
            ratio=self._ratio.labels(model),
            stages={stage: self._stages.labels(model, stage) for stage in Stage},
        )
        return found

    def watch(
        self,
        depth: Callable[[], float],
        backlog_s: Callable[[], float],
        price: Callable[[], float],
    ) -> None:
        """Read levels from functions whenever metrics are read."""
        self._depth.set_function(depth)
        self._backlog.set_function(backlog_s)
        self._price.set_function(price)

    def tell_build(self, version: str, torch: str, backend: str, device: str) -> None:
        """Say what runs here, as the labels of a metric that is always 1.

        Args:
            version: Of this server.
            torch: Version of torch, with its build.
            backend: What computes.
            device: Where it does.
        """
        told = {"version": version, "torch": torch, "backend": backend, "device": device}
        Info("rheostat_build", "What this server is made of.", registry=self._registry).info(told)

    def watch_process(self) -> None:
        """Read the process's CPU time, memory and open files whenever metrics are read."""
        ProcessCollector(registry=self._registry)

    def watch_stats(
        self, prefix: str, stats: Callable[[], NamedTuple | None], levels: Collection[str]
    ) -> None:
        """Read the fields of a record whenever metrics are read: gauges, the others counters.

        Args:
            prefix: Of the metrics' names.
            stats: Returns the record, of which None is an empty one; its type's docstring
                describes the fields.
            levels: Fields that may fall.
        """
        self._registry.register(_Stats(prefix, stats, levels))

    def add(self, collector: Collector) -> None:
        """Read further metrics whenever metrics are read."""
        self._registry.register(collector)

    def watch_model(self, served: Served) -> None:
        """Create a model's series, those too that depend on what is known of it."""
        self._create(served.name)
        for point in range(len(served.front)):
            self._subnets.labels(served.name, point)
        for adapter in served.inputs.adapters:
            self._adapters.labels(served.name, adapter)
        profile = served.profile
        if profile is not None:
            self._drift.labels(served.name).set_function(lambda: profile.drift)

    def request(self) -> Tally:
        """Count one request, under the model written into the tally, by how the block ends."""
        return Tally(self._ended)

    def _ended(self, model: str, error: BaseException | None) -> None:
        if isinstance(error, InfeasibleBudgetError) and error.field == "latency_ms":
            self._of(self._latency, model, Latency.INFEASIBLE).inc()
        outcome = Outcome.OK if error is None else outcome_of(error)
        self._of(self._requests, model, outcome).inc()

    def malformed(self, fault: RheostatError) -> None:
        """Record that what a client sent was no request."""
        self._faults.labels(fault.error_type).inc()

    def batch(self, size: int) -> None:
        """Record that a batch was run."""
        self._batch_size.observe(size)

    def answered(
        self,
        served: Served,
        choice: Choice,
        flops: int,
        shared: float,
        seconds: Mapping[Stage, float],
        latency_ms: float | None,
        adapters: Collection[str] = (),
    ) -> None:
        """Record what an answer cost and was worth.

        Args:
            served: The model.
            choice: What ran.
            flops: Of the request.
            shared: Part of the FLOPs, 0..1, that were computed for others as well.
            seconds: Per stage.
            latency_ms: Of the budget.
            adapters: Of the items, each once.
        """
        model, selection, total_s = served.name, choice.selection, seconds[Stage.TOTAL]
        known = self._answers.get(model) or self._create(model)
        known.flops.inc(flops)
        known.shared.inc(flops * shared)
        known.quality.observe(selection.quality)
        most = selection.fraction + _SAME
        front = max(0, bisect_right(served.front, most, key=lambda point: point.fraction) - 1)
        self._of(self._subnets, model, front).inc()
        if choice.is_slimmed:
            known.slimmed.inc()
        if choice.predicted_s > 0:
            known.ratio.observe(total_s / choice.predicted_s)
        if latency_ms is not None:
            is_met = 1000 * total_s <= latency_ms
            self._of(self._latency, model, Latency.MET if is_met else Latency.MISSED).inc()
        for adapter in adapters:  # at most as many as the model has
            self._of(self._adapters, model, adapter).inc()
        for stage, value in seconds.items():
            known.stages[stage].observe(value)

    def given_up(self, served: Served) -> None:
        """Record a latency budget that passed before the request's turn."""
        self._of(self._latency, served.name, Latency.MISSED).inc()

    def _of(self, family: _Family[Series], *labels: object) -> Series:
        """Return a series, looked up by text only once."""
        key = (family, *labels)
        found: Series | None = self._kept.get(key)
        if found is None:
            found = self._kept[key] = family.labels(*labels)
        return found

    def families(self) -> list[Metric]:
        """Return all metrics of this process."""
        return list(self._registry.collect())

    def text(self) -> bytes:
        """Return all metrics of this process in Prometheus's text format."""
        return generate_latest(self._registry)


class _Stats(Collector):
    """A record's fields as metrics."""

    def __init__(
        self, prefix: str, stats: Callable[[], NamedTuple | None], levels: Collection[str]
    ) -> None:
        self._prefix, self._stats, self._levels = prefix, stats, levels

    def collect(self) -> Iterator[Metric]:
        """Yield every field."""
        record = self._stats()
        if record is not None:
            yield from stats_of(self._prefix, record, self._levels)


def stats_of(prefix: str, record: NamedTuple, levels: Collection[str]) -> Iterator[Metric]:
    """Yield every field of a record; those that may fall as gauges, the others as counters."""
    for name, value in record._asdict().items():
        family = GaugeMetricFamily if name in levels else CounterMetricFamily
        help_text = f"{name.capitalize().replace('_', ' ')} of {prefix}."
        yield family(f"rheostat_{prefix}_{name}", help_text, value=value)


def outcome_of(error: BaseException) -> Outcome:
    """Return how a request ended that ended in an error."""
    match error:
        case InfeasibleError() | InfeasibleBudgetError():
            return Outcome.INFEASIBLE
        case OverloadedError():
            return Outcome.REFUSED
        case DeadlineError():
            return Outcome.EXPIRED
        case ClientGoneError() | asyncio.CancelledError():
            return Outcome.CANCELLED
        case ClientError() | RequestError():
            return Outcome.INVALID
    return Outcome.FAILED

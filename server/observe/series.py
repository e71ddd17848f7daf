"""Counters and histograms that one thread fills: without the library's own locks and checks.

A request is counted and observed a dozen times, which took a tenth of what the event loop did for
it. What is read of them is the library's.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

SeriesT = TypeVar("SeriesT")


class Count:
    """What was counted under one set of labels."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Count on; call it on the thread that metrics are read on."""
        self.total += amount


class Distribution:
    """What was observed under one set of labels."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; call it on the thread that metrics are read on."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class _Family(Collector, Generic[SeriesT]):
    """Series of one name, read whenever metrics are read."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._series: dict[tuple[str, ...], SeriesT] = {}
        registry.register(self)

    def labels(self, *values: object) -> SeriesT:
        """Return a series, which begins at zero."""
        key = tuple(map(str, values))
        if key not in self._series:
            self._series[key] = self._new()
        return self._series[key]

    @abstractmethod
    def _new(self) -> SeriesT: ...


class Counter(_Family[Count]):
    """A number that only grows."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry
    ) -> None:
        """Begin without series.

        Args:
            name: Of the metric.
            text: What it is.
            labels: Their names.
            registry: That reads it.
        """
        super().__init__(name, text, labels, registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every series."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._series.items():
            family.add_metric(values, count.total)
        yield family

    def _new(self) -> Count:
        return Count()


class Histogram(_Family[Distribution]):
    """How many values lie below each of some bounds."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """Begin without series.

        Args:
            name: Of the metric.
            text: What it is.
            labels: Their names.
            buckets: Upper bounds, ascending; a last one without bound is added.
            registry: That reads it.
        """
        self._bounds = tuple(map(float, buckets))
        self._names = [*map(floatToGoString, self._bounds), "+Inf"]
        super().__init__(name, text, labels, registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every series."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, seen in self._series.items():
            buckets = zip(self._names, accumulate(seen.counts), strict=True)
            family.add_metric(values, list(buckets), seen.total)
        yield family

    def _new(self) -> Distribution:
        return Distribution(self._bounds)

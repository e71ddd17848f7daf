"""The metrics of all processes of a server as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from server.engine.core import Core
from server.observe.metrics import Metrics

_OTHERS_S = 1.0  # for the other processes to answer
# Levels of which each process has its own part; of others each process tells the same.
_ADDED = ("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_open_fds")
_FIRST = ("process_start_time_seconds",)
# Counted once for all processes, by the engine, and told by each.
_TOLD = ("rheostat_cache_", "rheostat_backend_")


def text(processes: Iterable[Iterable[Metric]]) -> bytes:
    """Return what several processes count, in Prometheus's text format.

    Counters and histograms are added. Of levels the greatest counts, but those of the processes
    themselves, which are added too.

    Args:
        processes: The metrics of each.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(processes))
    return generate_latest(registry)


def of_process(pid: int) -> list[Metric]:
    """Return CPU time, memory and open files of another process; nothing once it has gone."""
    return list(ProcessCollector(registry=CollectorRegistry(), pid=lambda: pid).collect())


class AllMetrics:
    """The metrics of this process and of all others of its server."""

    def __init__(self, metrics: Metrics, core: Core) -> None:
        """Answer other processes from now on.

        Args:
            metrics: Of this process.
            core: By which the others are reached.
        """
        self._metrics, self._core = metrics, core
        core.answering["metrics"] = self._own

    async def text(self) -> bytes:
        """Return them in Prometheus's text format; without those that do not answer in time."""
        others: list[list[Metric]] = []
        if self._core.is_alive:
            others = await self._core.ask_others(_OTHERS_S, "metrics")
            if self._core.pid is not None:
                others.append(of_process(self._core.pid))
        return text([await self._own(), *others])

    async def _own(self) -> list[Metric]:
        return self._metrics.families()


class _Merged(Collector):
    """Samples of several processes, put together by name and labels."""

    def __init__(self, processes: Iterable[Iterable[Metric]]) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once."""
        found: dict[str, tuple[Metric, dict[object, Sample]]] = {}
        for metric in (one for metrics in self._processes for one in metrics):
            _, samples = found.setdefault(metric.name, (metric, {}))
            for sample in metric.samples:
                key = (sample.name, _labels(sample.labels))
                known = samples.get(key)
                value = sample.value if known is None else _merged(metric, known, sample)
                samples[key] = sample._replace(value=value)
        for metric, samples in found.values():
            merged = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            merged.samples = list(samples.values())
            yield merged


def _labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _merged(metric: Metric, known: Sample, sample: Sample) -> float:
    if metric.name in _FIRST or sample.name.endswith("_created"):
        return min(known.value, sample.value)
    is_level = metric.type not in ("counter", "histogram") and metric.name not in _ADDED
    if is_level or metric.name.startswith(_TOLD):
        return max(known.value, sample.value)
    return known.value + sample.value

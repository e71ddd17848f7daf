"""What several processes count is told as one server's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from server.observe import merged


def process(answered: int, depth: float, memory: float, hits: int, seconds: float) -> list[Metric]:
    registry = CollectorRegistry()
    requests = Counter("rheostat_requests", "Answered.", ["outcome"], registry=registry)
    requests.labels("ok").inc(answered)
    Gauge("rheostat_queue_depth", "Inside.", registry=registry).set(depth)
    Gauge("process_resident_memory_bytes", "Memory.", registry=registry).set(memory)
    Gauge("process_start_time_seconds", "Start.", registry=registry).set(memory)
    Counter("rheostat_cache_hits", "Hits.", registry=registry).inc(hits)
    times = Histogram("rheostat_stage_seconds", "Time.", buckets=[1, 2], registry=registry)
    times.observe(seconds)
    return list(registry.collect())


def read(text: bytes) -> dict[str, float]:
    return {
        sample.name + str(sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rheostat_requests_total['ok']", 7),  # each process counts its own
        ("rheostat_queue_depth[]", 5),  # each tells what all have inside, some a moment late
        ("process_resident_memory_bytes[]", 300),  # each has its own
        ("process_start_time_seconds[]", 100),  # of the first
        ("rheostat_cache_hits_total[]", 11),  # counted once, told by each
        ("rheostat_stage_seconds_bucket['1.0']", 1),
        ("rheostat_stage_seconds_bucket['2.0']", 2),
        ("rheostat_stage_seconds_sum[]", 2.0),
        ("rheostat_stage_seconds_count[]", 2),
    ],
)
def test_samples_of_processes_are_put_together(name: str, value: float) -> None:
    text = merged.text([process(3, 5, 100, 11, 0.5), process(4, 4, 200, 9, 1.5)])
    assert read(text)[name] == value


def test_one_process_is_told_as_it_is() -> None:
    found = read(merged.text([process(3, 5, 100, 11, 0.5)]))
    assert found["rheostat_requests_total['ok']"] == 3
    assert found["rheostat_stage_seconds_bucket['+Inf']"] == 1


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads what Linux tells of processes")
def test_another_process_is_read_by_its_number_and_a_gone_one_tells_nothing() -> None:
    found = {metric.name for metric in merged.of_process(os.getpid())}
    assert "process_resident_memory_bytes" in found
    assert merged.of_process(2**22 + 1) == []

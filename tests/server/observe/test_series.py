"""Our counters and histograms say what the library's own would."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from server.observe.series import Counter, Histogram

BOUNDS = (0.1, 1.0, 10.0)


def text_of(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@given(st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.100001, 1.0, 7.0, 10.0, 10.5, 1e9])))
def test_a_histogram_reads_as_the_librarys_own(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    own = Histogram("seconds", "Time.", ["stage"], buckets=BOUNDS, registry=ours)
    other = prometheus_client.Histogram(
        "seconds", "Time.", ["stage"], buckets=BOUNDS, registry=theirs
    )
    for value in values:
        own.labels("run").observe(value)
        other.labels("run").observe(value)
    own.labels("queue")
    other.labels("queue")
    assert sorted(text_of(ours)) == sorted(text_of(theirs))


@pytest.mark.parametrize("labels", [(), ("a",), ("a", "b")])
def test_a_counter_reads_as_the_librarys_own(labels: tuple[str, ...]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    names = [f"label{i}" for i in range(len(labels))]
    own = Counter("requests", "How many.", names, registry=ours)
    other = prometheus_client.Counter("requests", "How many.", names, registry=theirs)
    own.labels(*labels).inc()
    own.labels(*labels).inc(2.5)
    (other.labels(*labels) if labels else other).inc(3.5)
    assert text_of(ours) == text_of(theirs)


def test_labels_that_are_written_alike_are_one_series() -> None:
    counter = Counter("requests", "How many.", ["front"], registry=CollectorRegistry())
    assert counter.labels(3) is counter.labels("3")

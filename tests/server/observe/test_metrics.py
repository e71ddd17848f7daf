from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from search.budget import InfeasibleBudgetError
from search.find import RequestError
from server.choose import Choice
from server.errors import (
    ClientGoneError,
    DeadlineError,
    InfeasibleError,
    InferenceError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    UnknownModelError,
)
from server.observe.metrics import Metrics, Outcome, Stage
from server.served import Served


def samples(metrics: Metrics) -> dict[str, float]:
    """Return every sample by name and labels, such as ``rheostat_x_total{model=tiny}``."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@pytest.fixture
def metrics(served: Served) -> Metrics:
    metrics = Metrics(["tiny"], 32)
    metrics.watch_model(served)
    return metrics


SECONDS = {Stage.DECODE: 0.004, Stage.TOTAL: 0.04}


def answer(
    metrics: Metrics,
    served: Served,
    *,
    num_inputs: int = 1,
    shared: float = 0.0,
    is_slimmed: bool = False,
    latency_ms: float | None = None,
) -> None:
    choice = Choice(served.finder.find(), is_slimmed, predicted_s=0.02)
    flops = num_inputs * choice.selection.cost.flops
    metrics.answered(served, choice, flops, shared, SECONDS, latency_ms)


def fail(metrics: Metrics, error: BaseException) -> None:
    def request() -> None:
        with metrics.request() as tally:
            tally.model = "tiny"
            raise error

    with pytest.raises(type(error)):
        request()


def test_every_series_starts_at_zero(metrics: Metrics) -> None:
    found = {name: x for name, x in samples(metrics).items() if "_created" not in name}
    assert set(found.values()) == {0.0}
    for outcome in Outcome:
        for model in ("tiny", "none"):
            assert f"rheostat_requests_total{{model={model},outcome={outcome}}}" in found
    for stage in Stage:
        assert f"rheostat_stage_seconds_count{{model=tiny,stage={stage}}}" in found
    for name in ("rheostat_flops_spent_total", "rheostat_quality_served_count"):
        assert f"{name}{{model=tiny}}" in found
    assert "rheostat_batch_size_count{}" in found
    assert "rheostat_queue_depth{}" in found


def test_using_metrics_adds_no_series(metrics: Metrics, served: Served) -> None:
    before = samples(metrics).keys()
    with metrics.request() as tally:
        tally.model = "tiny"
    answer(metrics, served, latency_ms=1.0, is_slimmed=True)
    metrics.batch(3)
    assert samples(metrics).keys() == before


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequestError("x"), Outcome.INVALID),
        (UnknownModelError("x"), Outcome.INVALID),
        (RequestError("x", "tasks"), Outcome.INVALID),
        (InfeasibleBudgetError("x", "macs", 1.0), Outcome.INFEASIBLE),
        (InfeasibleError("x", "budget.macs", 1.0), Outcome.INFEASIBLE),
        (OverloadedError("x", 1.0), Outcome.REFUSED),
        (DeadlineError("x"), Outcome.EXPIRED),
        (ClientGoneError("x"), Outcome.CANCELLED),
        (asyncio.CancelledError(), Outcome.CANCELLED),
        (InferenceError("x"), Outcome.FAILED),
        (ModelNotReadyError("x"), Outcome.FAILED),
        (ZeroDivisionError(), Outcome.FAILED),
    ],
)
def test_a_request_that_ends_in_an_error_is_counted_once_by_its_outcome(
    metrics: Metrics, error: BaseException, outcome: Outcome
) -> None:
    fail(metrics, error)
    counts = {n: x for n, x in samples(metrics).items() if n.startswith("rheostat_requests_total")}
    assert counts.pop(f"rheostat_requests_total{{model=tiny,outcome={outcome}}}") == 1
    assert set(counts.values()) == {0.0}


def test_a_request_without_a_model_is_counted_under_none(metrics: Metrics) -> None:
    with metrics.request():
        pass
    assert samples(metrics)["rheostat_requests_total{model=none,outcome=ok}"] == 1


def test_an_answer_counts_its_compute_and_its_quality(metrics: Metrics, served: Served) -> None:
    selection = served.finder.find()
    answer(metrics, served, num_inputs=3, shared=0.5, is_slimmed=True)
    found = samples(metrics)
    assert found["rheostat_flops_shared_total{model=tiny}"] == 1.5 * selection.cost.flops
    assert found["rheostat_slimmed_requests_total{model=tiny}"] == 1
    last = len(served.front) - 1
    assert found[f"rheostat_subnets_served_total{{front={last},model=tiny}}"] == 1
    assert found["rheostat_latency_ratio_sum{model=tiny}"] == pytest.approx(2)
    assert found["rheostat_flops_spent_total{model=tiny}"] == 3 * selection.cost.flops
    assert found["rheostat_quality_served_sum{model=tiny}"] == pytest.approx(selection.quality)
    assert found["rheostat_quality_served_count{model=tiny}"] == 1


def test_stages_are_histograms_of_seconds(metrics: Metrics, served: Served) -> None:
    answer(metrics, served)
    found = samples(metrics)
    assert found["rheostat_stage_seconds_sum{model=tiny,stage=decode}"] == pytest.approx(0.004)
    assert found["rheostat_stage_seconds_bucket{le=0.00316,model=tiny,stage=decode}"] == 0
    assert found["rheostat_stage_seconds_bucket{le=0.00562,model=tiny,stage=decode}"] == 1
    assert found["rheostat_stage_seconds_bucket{le=+Inf,model=tiny,stage=decode}"] == 1
    assert found["rheostat_stage_seconds_count{model=tiny,stage=run}"] == 0


@pytest.mark.parametrize(("latency_ms", "outcome"), [(None, None), (39.0, "missed"), (41.0, "met")])
def test_latency_budgets_are_met_or_missed(
    metrics: Metrics, served: Served, latency_ms: float | None, outcome: str | None
) -> None:
    answer(metrics, served, latency_ms=latency_ms)
    counts = latency_budgets(metrics)
    assert counts.pop(outcome, 0) == (outcome is not None)
    assert set(counts.values()) == {0}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InfeasibleBudgetError("x", "latency_ms", 1.0), "infeasible"),
        (InfeasibleBudgetError("x", "macs", 1.0), None),
        (DeadlineError("x"), None),  # may be of a timeout alone; the service knows
    ],
)
def test_latency_budgets_that_cannot_be_met_are_counted(
    metrics: Metrics, error: Exception, outcome: str | None
) -> None:
    fail(metrics, error)
    counts = latency_budgets(metrics)
    assert counts.pop(outcome, 0) == (outcome is not None)
    assert set(counts.values()) == {0}


def test_a_latency_budget_that_passes_before_its_turn_is_missed(
    metrics: Metrics, served: Served
) -> None:
    metrics.given_up(served)
    counts = latency_budgets(metrics)
    assert counts.pop("missed") == 1
    assert set(counts.values()) == {0}


def latency_budgets(metrics: Metrics) -> dict[str | None, float]:
    start = "rheostat_latency_budgets_total{model=tiny,outcome="
    found = samples(metrics)
    return {n.removeprefix(start)[:-1]: x for n, x in found.items() if n.startswith(start)}


@pytest.mark.parametrize(
    ("largest", "bounds"),
    [
        (1, ["1.0"]),
        (2, ["1.0", "2.0"]),
        (6, ["1.0", "2.0", "4.0", "6.0"]),
        (4, ["1.0", "2.0", "4.0"]),
    ],
)
def test_batch_sizes_have_a_bucket_for_a_full_batch(largest: int, bounds: list[str]) -> None:
    metrics = Metrics([], largest)
    metrics.batch(largest)
    found = samples(metrics)
    start = "rheostat_batch_size_bucket{le="
    names = [name.removeprefix(start)[:-1] for name in found if name.startswith(start)]
    assert names == [*bounds, "+Inf"]
    assert found[f"{start}{bounds[-1]}}}"] == 1


def test_levels_are_read_when_asked(metrics: Metrics) -> None:
    level = [3.0]
    metrics.watch(lambda: level[0], lambda: level[0] / 10, lambda: level[0] / 100)
    names = ("rheostat_queue_depth", "rheostat_backlog_seconds", "rheostat_compute_price")
    for level[0] in (3.0, 5.0):
        found = [samples(metrics)[f"{name}{{}}"] for name in names]
        assert found == pytest.approx([level[0], level[0] / 10, level[0] / 100])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_the_process_is_read_when_asked(metrics: Metrics) -> None:
    metrics.watch_process()
    found = samples(metrics)
    assert found["process_resident_memory_bytes{}"] > 2**20
    assert found["process_cpu_seconds_total{}"] > 0
    assert found["process_open_fds{}"] > 0


class Levels(NamedTuple):
    hits: int
    bytes: int


def test_a_record_is_read_when_asked_counters_and_levels_apart(metrics: Metrics) -> None:
    record = [Levels(1, 2)]
    metrics.watch_stats("cache", lambda: record[0], ["bytes"])
    record[0] = Levels(3, 4)
    found = samples(metrics)
    assert found["rheostat_cache_hits_total{}"] == 3
    assert found["rheostat_cache_bytes{}"] == 4

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from search.budget import InfeasibleBudgetError
from search.find import RequestError
from server.catalog import Served
from server.errors import (
    ClientGoneError,
    InfeasibleError,
    InferenceError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    UnknownModelError,
)
from server.metrics import Metrics, Outcome, Stage


def samples(metrics: Metrics) -> dict[str, float]:
    """Return every sample by name and labels, such as ``rheostat_x_total{model=tiny}``."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["tiny"], 32)


def test_every_series_starts_at_zero(metrics: Metrics) -> None:
    found = {name: x for name, x in samples(metrics).items() if "_created" not in name}
    assert set(found.values()) == {0.0}
    for outcome in Outcome:
        for model in ("tiny", "none"):
            assert f"rheostat_requests_total{{model={model},outcome={outcome}}}" in found
    for stage in Stage:
        assert f"rheostat_stage_seconds_count{{stage={stage}}}" in found
    for name in ("rheostat_flops_spent_total", "rheostat_quality_served_count"):
        assert f"{name}{{model=tiny}}" in found
    assert "rheostat_batch_size_count{}" in found
    assert "rheostat_queue_depth{}" in found


def test_using_metrics_adds_no_series(metrics: Metrics, served: Served) -> None:
    before = samples(metrics).keys()
    with metrics.request() as tally:
        tally.model = "tiny"
    metrics.answered("tiny", served.finder.find(), 2)
    metrics.stage(Stage.RUN, 0.1)
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
    def fail() -> None:
        with metrics.request() as tally:
            tally.model = "tiny"
            raise error

    with pytest.raises(type(error)):
        fail()
    counts = {n: x for n, x in samples(metrics).items() if n.startswith("rheostat_requests_total")}
    assert counts.pop(f"rheostat_requests_total{{model=tiny,outcome={outcome}}}") == 1
    assert set(counts.values()) == {0.0}


def test_a_request_without_a_model_is_counted_under_none(metrics: Metrics) -> None:
    with metrics.request():
        pass
    assert samples(metrics)["rheostat_requests_total{model=none,outcome=ok}"] == 1


def test_an_answer_counts_its_compute_and_its_quality(metrics: Metrics, served: Served) -> None:
    selection = served.finder.find()
    metrics.answered("tiny", selection, 3)
    found = samples(metrics)
    assert found["rheostat_flops_spent_total{model=tiny}"] == 3 * selection.cost.flops
    assert found["rheostat_quality_served_sum{model=tiny}"] == pytest.approx(selection.quality)
    assert found["rheostat_quality_served_count{model=tiny}"] == 1


def test_stages_are_histograms_of_seconds(metrics: Metrics) -> None:
    for seconds in (0.00005, 0.004, 20.0):
        metrics.stage(Stage.DECODE, seconds)
    found = samples(metrics)
    assert found["rheostat_stage_seconds_sum{stage=decode}"] == pytest.approx(20.00405)
    assert found["rheostat_stage_seconds_bucket{le=0.0001,stage=decode}"] == 1
    assert found["rheostat_stage_seconds_bucket{le=10.0,stage=decode}"] == 2
    assert found["rheostat_stage_seconds_bucket{le=+Inf,stage=decode}"] == 3
    assert found["rheostat_stage_seconds_count{stage=run}"] == 0


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


def test_the_queues_depth_is_read_when_asked(metrics: Metrics) -> None:
    depth = [3.0]
    metrics.watch_depth(lambda: depth[0])
    assert samples(metrics)["rheostat_queue_depth{}"] == 3
    depth[0] = 5.0
    assert samples(metrics)["rheostat_queue_depth{}"] == 5

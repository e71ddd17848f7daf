"""The model against what queueing theory says of its parts."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest

from bench.scale_model import Cluster, Replica, simulate

SINGLE = Replica(alone_s=0.0, more_s=1.0, max_batch=1)


def poisson(rate: float, count: int, seed: int = 0) -> list[float]:
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    times: list[float] = np.cumsum(gaps).tolist()
    return times


def test_one_replica_without_batches_is_the_queue_of_theory() -> None:
    found = simulate(Cluster(1, SINGLE), poisson(0.7, 40_000), seed=0)
    # M/D/1: the mean wait is rho / (2 (1 - rho)) service times.
    assert statistics.fmean(found.latencies) == pytest.approx(1 + 0.7 / 0.6, rel=0.05)
    assert found.busy_s / found.end == pytest.approx(0.7, rel=0.03)


def test_full_batches_carry_what_the_capacity_says() -> None:
    replica = Replica(alone_s=0.04, more_s=0.01, max_batch=8)
    found = simulate(Cluster(1, replica), [0.0] * 800, seed=0)
    assert replica.capacity == pytest.approx(8 / 0.12)
    assert 800 / found.end == pytest.approx(replica.capacity, rel=0.01)  # the first goes alone


def test_the_shorter_of_two_queues_is_far_better_than_one_at_random() -> None:
    times = poisson(0.9 * 100, 20_000)
    two = simulate(Cluster(100, SINGLE), times, seed=0)
    # At random each replica is a queue of its own: M/D/1 at 0.9 waits 4.5 service times.
    assert statistics.fmean(two.latencies) < 1 + 4.5 / 2


def test_many_routers_know_less_and_so_wait_longer_but_answer_all() -> None:
    times = poisson(0.9 * 100, 20_000)
    one, many = (simulate(Cluster(100, SINGLE, routers=n), times, seed=0) for n in (1, 50))
    assert len(one.latencies) == len(many.latencies) == 20_000
    assert statistics.fmean(one.latencies) < statistics.fmean(many.latencies)


def test_a_router_is_a_queue_before_the_replicas() -> None:
    cluster = Cluster(4, replace(SINGLE, more_s=1e-6), router_s=1.0, constant_s=3.0)
    found = simulate(cluster, [0.0, 0.0, 10.0], seed=0)
    assert found.latencies == pytest.approx([4, 5, 4], abs=1e-4)
    assert found.routing_s == pytest.approx(3)


def test_the_price_of_waiting_makes_rows_cheaper_until_the_load_is_carried() -> None:
    front = ((0.25, 0.8), (0.5, 0.95), (1.0, 1.0))
    replica = Replica(0.0, 0.01, max_batch=1, front=front, target_delay_s=0.1)
    assert replica.best(0.0) == (1.0, 1.0)
    assert replica.best(0.2) == (0.5, 0.95)
    assert replica.best(10.0) == (0.25, 0.8)
    calm = simulate(Cluster(1, replica), poisson(10, 1000), seed=0)
    assert statistics.fmean(calm.qualities) > 0.99
    # Twice what the whole model can do.
    times = poisson(200, 4000)
    found = simulate(Cluster(1, replica), times, seed=0)
    assert max(found.latencies) < 0.5
    assert statistics.fmean(found.shares) == pytest.approx(0.5, abs=0.1)
    assert 0.9 < statistics.fmean(found.qualities) < 0.97
    assert found.busy_s / times[-1] > 0.9

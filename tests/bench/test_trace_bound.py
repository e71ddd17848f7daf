"""The bound of `python -m bench.trace`, against a linear program and against all schedules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from scipy.optimize import linprog

from bench.trace.bound import Bound, Point, bound, rising

_SUBNETS = ((1.0, 0.5), (2.0, 0.8), (4.0, 1.0))


def test_one_request_gets_the_best_subnet_that_fits() -> None:
    limit = bound(np.array([5.0]), 2.0, _SUBNETS)
    assert (limit.attainment, limit.goodput) == pytest.approx((1.0, 0.8))
    assert limit.quality(1.0) == pytest.approx(0.8)
    # Half of the largest subnet, as parts may be served.
    assert limit.quality(0.5) == pytest.approx(1.0)


def test_with_room_for_everybody_all_get_the_best() -> None:
    limit = bound(np.linspace(0, 95, 20), 4.0, _SUBNETS)
    assert limit.corners[0] == pytest.approx((1.0, 1.0))
    assert len(limit.corners) == 1


def test_subnets_that_are_never_worth_it_are_left_out() -> None:
    points = [*_SUBNETS, (1.5, 0.5), (1.0, 0.4), (6.0, 0.9)]
    assert rising(points) == list(_SUBNETS)


@pytest.mark.parametrize("seed", range(12))
def test_the_greedy_bound_is_the_optimum_of_the_linear_program(seed: int) -> None:
    rng = Random(seed)
    due = np.cumsum([rng.expovariate(rng.choice([0.3, 1.0, 3.0])) for _ in range(9)])
    slo = rng.uniform(0.5, 8)
    limit = bound(due, slo, _SUBNETS)
    assert limit.goodput == pytest.approx(_linear_program(due.tolist(), slo, 0.0), abs=1e-6)
    for weight in (-0.9, -0.3, 0.2, 1.0, 50.0):
        best = max(total + weight * share for share, total in ((0.0, 0.0), *limit.corners))
        assert best == pytest.approx(_linear_program(due.tolist(), slo, weight), abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_no_schedule_of_whole_requests_beats_the_bound(seed: int) -> None:
    rng = Random(seed)
    due = np.cumsum([rng.expovariate(0.8) for _ in range(4)])
    slo = rng.uniform(1.0, 5.0)
    limit = bound(due, slo, _SUBNETS)
    found = list(_schedules(due.tolist(), slo))
    assert limit.goodput >= max(total for _, total in found) - 1e-9
    assert limit.attainment >= max(share for share, _ in found) - 1e-9
    for share, total in found:
        if share:
            assert (limit.quality(share) or 0.0) >= total / share - 1e-9


def test_more_than_possible_has_no_quality() -> None:
    limit = Bound(((0.4, 0.4), (0.5, 0.45)))
    assert limit.quality(0.0) is None
    assert limit.quality(0.6) is None
    assert limit.quality(0.45) == pytest.approx(0.425 / 0.45)
    assert (limit.attainment, limit.goodput) == (0.5, 0.45)


def _linear_program(due: list[float], slo: float, weight: float) -> float:
    """Return the largest quality + weight x share in time, over all requests, by HiGHS."""
    num, kinds = len(due), len(_SUBNETS)
    gain = [-(quality + weight) / num for _ in due for _, quality in _SUBNETS]
    rows, room = [], []
    for p, q in itertools.combinations_with_replacement(range(num), 2):
        row = np.zeros((num, kinds))
        row[p : q + 1] = [seconds for seconds, _ in _SUBNETS]
        rows.append(row.ravel())
        room.append(due[q] + slo - due[p])
    for i in range(num):
        row = np.zeros((num, kinds))
        row[i] = 1
        rows.append(row.ravel())
        room.append(1.0)
    return -float(linprog(gain, np.array(rows), room).fun)


def _schedules(due: list[float], slo: float) -> Iterator[Point]:
    """Yield (share, goodput) of all ways to serve whole requests one after the other."""
    for chosen in itertools.product((None, *_SUBNETS), repeat=len(due)):
        served = [i for i, subnet in enumerate(chosen) if subnet is not None]
        for order in itertools.permutations(served):
            now, total, met = 0.0, 0.0, 0
            for i in order:
                seconds, quality = chosen[i] or (0.0, 0.0)
                now = max(now, due[i]) + seconds
                if now <= due[i] + slo:
                    met, total = met + 1, total + quality
            yield met / len(due), total / len(due)

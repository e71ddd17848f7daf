from __future__ import annotations

import json

import numpy as np
import pytest

from bench.overload import _arrivals, _recovery_s, _row
from bench.trace.replay import Outcome

TIMES = {"queue": 1.0, "run": 1.0, "total": 2.0, "predicted": 2.0}


def answer(quality: float, latency_s: float = 0.01) -> Outcome:
    receipt = {"quality": quality, "slimmed": quality < 1, "milliseconds": TIMES}
    return Outcome(200, latency_s, 0.0, json.dumps({"receipt": receipt}).encode())


def test_arrivals_follow_the_phases_in_order() -> None:
    due_s, of_phase = _arrivals([(10.0, 0.5), (20.0, 4.0)], 50.0, np.random.default_rng(0))
    assert (np.diff(due_s) >= 0).all()
    counts = np.bincount(of_phase)
    assert counts == pytest.approx([250, 4000], rel=0.2)
    assert (due_s[: counts[0]] < 10).all()
    assert (due_s[counts[0] :] >= 10).all()


def test_a_row_counts_every_request_once() -> None:
    outcomes = [
        answer(1.0),
        answer(0.9, latency_s=0.3),
        Outcome(429, 0.001, 0.0, b""),
        Outcome(504, 0.2, 0.0, b""),
        Outcome(500, 0.2, 0.0, b""),
        Outcome(None, 9.0, 0.0, b""),
    ]
    sent, answered, refused, expired, other, lost, *_, in_time, quality = _row(outcomes, 0.1)
    assert (sent, answered, refused, expired, other, lost) == (6, 2, 1, 1, 1, 1)
    assert (in_time, quality) == (0.5, 1.0)


def test_recovery_ends_with_the_last_second_that_is_worse_than_the_worst_before_the_burst() -> None:
    refused = Outcome(429, 0.0, 0.0, b"")
    outcomes = [*map(answer, (1.0, 0.98, 0.8, 0.9, 0.99)), refused, answer(1.0)]
    due_s = np.array([1.0, 1.5, 9.0, 10.5, 11.0, 12.0, 13.0])
    assert _recovery_s(outcomes, due_s, [0, 0, 1, 2, 2, 2, 2], 10.0) == 3.0
    calm = [one for one in outcomes if one is not refused]
    assert _recovery_s(calm, due_s[due_s != 12.0], [0, 0, 1, 2, 2, 2], 10.0) == 1.0

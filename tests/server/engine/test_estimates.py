"""What a client's estimates are multiplied by."""

from __future__ import annotations

import pytest

from server.engine.estimates import Estimates


def test_where_nothing_is_known_an_estimate_is_taken_as_it_is() -> None:
    estimates = Estimates()
    assert estimates.ratio("a") == 1
    estimates.note("a", 0.0, 1.0)  # nobody estimated
    assert estimates.ratio("a") == 1


def test_a_clients_estimates_are_corrected_by_what_its_requests_turned_out_to_be() -> None:
    estimates = Estimates()
    for _ in range(10):
        estimates.note("a", 2.0, 1.0)
        estimates.note("b", 1.0, 3.0)
    assert (estimates.ratio("a"), estimates.ratio("b")) == pytest.approx((0.5, 3.0))


def test_what_changes_is_learnt_within_a_dozen_requests() -> None:
    estimates = Estimates()
    for known in (1.0, 4.0):
        for _ in range(12):
            estimates.note("a", 1.0, known)
    assert estimates.ratio("a") == pytest.approx(4.0, rel=0.1)


def test_a_correction_has_bounds_and_so_has_the_number_of_clients() -> None:
    estimates = Estimates()
    estimates.note("slow", 1.0, 1e6)
    estimates.note("cached", 1.0, 0.0)
    assert (estimates.ratio("slow"), estimates.ratio("cached")) == (10.0, 0.1)
    for number in range(2000):
        estimates.note(str(number), 1.0, 2.0)
    assert estimates.ratio("slow") == 1
    assert estimates.ratio("1999") == 2

from __future__ import annotations

import math
from typing import Any

import pytest

from search.budget import Budget


def test_the_strictest_ceiling_wins_and_is_named() -> None:
    assert Budget().max_macs(1000) == (math.inf, None)
    assert Budget(flops=900, macs=600, fraction=0.9).max_macs(1000) == (450.0, "flops")
    assert Budget(flops=1900, macs=600, fraction=0.9).max_macs(1000) == (600, "macs")
    assert Budget(flops=1900, fraction=0.5).max_macs(1000) == (500, "fraction")


def test_strictness_and_nothing_else_is_no_limit() -> None:
    assert not Budget().names_limit
    assert not Budget(strict=True).names_limit
    assert Budget(latency_ms=1.0).names_limit


@pytest.mark.parametrize(
    "field", ["flops", "macs", "fraction", "min_quality", "latency_ms", "bytes"]
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_limits_that_make_no_sense_are_refused(field: str, value: float) -> None:
    limits: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=rf"budget\.{field}=.* must be a finite number above 0"):
        Budget(**limits)


def test_a_fraction_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget\.fraction=1\.1 must be at most 1"):
        Budget(fraction=1.1)

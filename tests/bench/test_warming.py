"""What a start's times come to."""

from __future__ import annotations

import pytest

from bench.warming import figures


def times(*per_s: int) -> list[float]:
    return [second + i / count for second, count in enumerate(per_s) for i in range(count)]


@pytest.mark.parametrize(
    ("per_s", "full", "fast"),
    [
        ((100,) * 9, 100, 0),
        ((10, 10, 10, 100, 100, 100, 100, 100, 100), 100, 3),
        ((10, 10, 10, 100, 10, 100, 100, 100, 100), 100, 5),  # one second is an accident
        ((10, 20, 30, 40, 50, 60, 70, 80, 90), 80, 6),  # 60, 70 and 80 are 70 on average
    ],
)
def test_full_speed_is_the_end_and_fast_is_nine_tenths_of_it(
    per_s: tuple[int, ...], full: float, fast: int
) -> None:
    found = figures(1.5, times(*per_s), len(per_s))
    assert found == {
        "ready_s": 1.5,
        "per_s": list(per_s),
        "full_per_s": full,
        "at_90_percent_s": fast,
    }


def test_what_was_answered_after_the_end_does_not_count() -> None:
    assert figures(0.0, [*times(*(5,) * 9), 9.5, 9.9], 9)["per_s"] == [5] * 9


def test_a_server_that_comes_and_goes_is_never_fast() -> None:
    assert figures(0.0, times(*(10,) * 9, 90, 0, 0, 90), 13)["at_90_percent_s"] is None

"""What a start's times come to."""

from __future__ import annotations

import pytest

from bench.warming import full_speed, per_second, reached_after


@pytest.mark.parametrize(
    ("per_s", "fast"),
    [
        ((100,) * 9, 0),
        ((10, 10, 10, 100, 100, 100, 100, 100, 100), 3),
        ((10, 10, 10, 100, 10, 100, 100, 100, 100), 5),  # one second is an accident
        ((10, 20, 30, 40, 50, 60, 80, 130, 90), 5),  # 60, 80 and 130
        ((10, 20, 30, 40, 50, 60, 70, 80, 90), None),
    ],
)
def test_a_start_is_warm_when_seconds_in_a_row_are_near_full_speed(
    per_s: tuple[int, ...], fast: int | None
) -> None:
    assert reached_after(per_s, 100) == fast


def test_answers_count_in_their_second_and_full_speed_is_that_of_the_end() -> None:
    times = [0.0, 0.9, 1.0, 2.5, 3.0, 3.1, 3.2, 4.5, 5.5, 5.6, 6.1]  # the last is too late
    assert per_second(times, 6) == [2, 1, 1, 3, 1, 2]
    assert full_speed([2, 1, 1, 3, 1, 2]) == 1.5

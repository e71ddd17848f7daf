from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from models.backends.timing import SIZES, Compared, compared, lengths, size_of
from models.nn.ragged import Layout, Ragged, Value


class Watch:
    """A clock that only what is timed moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rows: list[int] = []

    def __call__(self) -> float:
        return self.now_s

    def taking(self, seconds: Callable[[int], float]) -> Callable[[Sequence[Value]], None]:
        def run(inputs: Sequence[Value]) -> None:
            self.rows.append(len(inputs[0]))
            self.now_s += seconds(len(inputs[0]))

        return run


def batch(rows: Sequence[int]) -> list[Value]:
    return [torch.empty(len(rows), 3)]


def compare(
    watch: Watch, run: Callable[[int], float], other: Callable[[int], float]
) -> tuple[bool, ...]:
    found = compared(watch.taking(run), watch.taking(other), batch, watch)
    return tuple(size.is_faster for size in found)


def test_the_time_of_the_faster_one_is_told_where_it_was_taken() -> None:
    watch = Watch()
    run, other = watch.taking(lambda rows: 2e-3 * rows), watch.taking(lambda rows: 1e-2)
    found = compared(run, other, batch, watch)
    assert [size.is_faster for size in found] == [True, False, False]
    assert [size.seconds for size in found] == pytest.approx([2e-3, 1e-2, 1e-2])
    slow = watch.taking(lambda rows: 0.1 * rows)
    assert compared(slow, slow, batch, watch)[1:] == (Compared(False, None),) * 2


def test_each_size_is_decided_by_itself() -> None:
    found = compare(Watch(), lambda rows: 1e-3 * rows, lambda rows: 5e-3 + 5e-4 * rows)
    assert found == (True, True, False)
    assert compare(Watch(), lambda _: 1e-3, lambda rows: 9e-4 * rows) == (False, True, True)


def test_equally_fast_is_not_faster() -> None:
    assert compare(Watch(), lambda _: 1e-3, lambda _: 1e-3) == (False,) * len(SIZES)


def test_what_disturbs_all_calls_but_one_does_not_count() -> None:
    calls = iter([1e-2, 1e-2, 1e-3, *[1e-2] * 100])
    assert compare(Watch(), lambda _: next(calls), lambda _: 2e-3)[0]


def test_little_time_is_spent_on_a_size() -> None:
    watch = Watch()
    compare(watch, lambda _: 1e-6, lambda _: 1e-6)
    assert [watch.rows.count(rows) for rows in SIZES] == [14, 14, 14]
    watch = Watch()
    compare(watch, lambda _: 0.01, lambda _: 0.01)
    assert [watch.rows.count(rows) for rows in SIZES] == [6, 6, 6]


@pytest.mark.parametrize(("seconds", "sizes"), [(0.05, {1}), (0.005, {1, 8})])
def test_for_sizes_that_take_too_long_the_next_smaller_one_decides(
    seconds: float, sizes: set[int]
) -> None:
    watch = Watch()
    found = compare(watch, lambda rows: seconds * rows, lambda rows: 2 * seconds * rows)
    assert found == (True, True, True)
    assert set(watch.rows) == sizes


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 0), (2, 0), (3, 1), (8, 1), (15, 1), (16, 2), (500, 2)]
)
def test_a_batch_counts_as_the_nearest_size(rows: int, size: int) -> None:
    assert size_of(batch([1] * rows)) == size
    assert size_of([packed([16] * rows)]) == size


def test_text_counts_by_its_tokens() -> None:
    assert size_of([packed([256])]) == size_of([packed([16] * 16)]) == 2
    assert [size_of([packed(lengths(rows))]) for rows in SIZES] == [0, 1, 2]


def packed(rows: Sequence[int]) -> Ragged:
    return Ragged(torch.empty(sum(rows), 3), Layout(rows, torch.device("cpu")))

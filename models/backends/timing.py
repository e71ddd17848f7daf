"""Whether a session is worth having: it is timed against what runs without it.

Small batches gain most from a session, which makes one call of many; in large ones the products
decide. So each size is decided by itself.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import NamedTuple, TypeAlias

from models.nn.ragged import Value, layouts_of

Clock: TypeAlias = Callable[[], float]

SIZES = (1, 8, 32)  # rows
_BOUNDS = (3, 16)  # rows from which on a batch counts as the next size; about the geometric means
_LENGTHS = (16, 11, 21, 14, 18)  # tokens of rows of text
MEAN_TOKENS = sum(_LENGTHS) / len(_LENGTHS)  # of a row of text, in batches that are timed
_MIN_REPEATS, _MAX_REPEATS = 3, 7
_ENOUGH_S = 0.02  # for one size
_TOO_LONG_S = 0.5  # for one size; then the next smaller one decides for it


def lengths(rows: int) -> list[int]:
    """Return the lengths of so many rows of text, some longer than others."""
    return list(islice(cycle(_LENGTHS), rows))


def size_of(inputs: Sequence[Value]) -> int:
    """Return the index in `SIZES` of the size that is nearest to a batch's; text by its tokens."""
    layouts = layouts_of(inputs)
    tokens = sum(sum(layout.lengths) for layout in layouts)
    return bisect(_BOUNDS, tokens / len(layouts) / MEAN_TOKENS if layouts else len(inputs[0]))


class Compared(NamedTuple):
    """What came of a comparison at one size.

    Attributes:
        is_faster: Whether the one is faster than the other.
        seconds: Of the faster one; None if this size took too long to be timed.
    """

    is_faster: bool
    seconds: float | None


def compared(
    run: Callable[[Sequence[Value]], object],
    other: Callable[[Sequence[Value]], object],
    batch: Callable[[list[int]], Sequence[Value]],
    clock: Clock,
) -> tuple[Compared, ...]:
    """Return for each of `SIZES` whether ``run`` is faster than ``other``, and the time it takes.

    The two take turns, and of each the best time counts: whatever else the machine does only adds
    to the others.

    Args:
        run: Function of a batch; returns when it is done.
        other: The same.
        batch: Makes a batch of rows of given lengths.
        clock: Seconds, from any start; read before and after each call and nowhere else.
    """
    found: list[Compared] = []
    pair_s = 0.0
    for i, rows in enumerate(SIZES):
        pair_s *= rows / SIZES[i - 1]
        if found and _MIN_REPEATS * pair_s > _TOO_LONG_S:
            found.append(Compared(found[-1].is_faster, None))
            continue
        inputs = batch(lengths(rows))
        times: tuple[list[float], list[float]] = ([], [])
        while len(times[0]) < _MAX_REPEATS:
            for function, taken in zip((run, other), times, strict=True):
                start = clock()
                function(inputs)
                taken.append(clock() - start)
            if len(times[0]) >= _MIN_REPEATS and sum(map(sum, times)) >= _ENOUGH_S:
                break
        best, other_best = map(min, times)
        pair_s = best + other_best
        found.append(Compared(best < other_best, min(best, other_best)))
    return tuple(found)

"""How much work comes within a time after a request, learnt from the last of them. Pure.

A rate says nothing of bursts. What comes within a window after an arrival does: under a Poisson
process that is the rate times the window, in a burst it is the rest of the burst. It is the
empirical arrival curve of network calculus (Cruz 1991, A Calculus for Network Delay, Part I, IEEE
Transactions on Information Theory), with a mean and a spread in place of the maximum.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

_WINDOWS = tuple(2.0**power for power in range(-8, 2))  # seconds
_KEPT = 128  # windows that are over, of each length
_MAX_OPEN = 4096  # arrivals of which it is not known yet what comes after them


class WorkRange(NamedTuple):
    """Seconds of work, as far as load may make it smaller.

    Attributes:
        whole: If nobody's subnet is made smaller.
        least: If everybody's is, as far as each allows.
    """

    whole: float
    least: float

    def at(self, part: float) -> float:
        """Return the seconds between the least, at 0, and the whole, at 1."""
        return self.least + part * (self.whole - self.least)

    def times(self, count: float) -> WorkRange:
        """Return the work of so many."""
        return WorkRange(count * self.whole, count * self.least)

    def at_least(self, other: WorkRange) -> WorkRange:
        """Return the larger of both, each way."""
        return WorkRange(max(self.whole, other.whole), max(self.least, other.least))

    def part(self, seconds: float) -> float:
        """Return where seconds lie between the least, at 0, and the whole, at 1."""
        spread = self.whole - self.least
        return (seconds - self.least) / spread if spread > 0 else 0.0


class Demand:
    """What came after the last arrivals, for windows from four milliseconds to two seconds."""

    def __init__(self) -> None:
        self._now = -math.inf
        self._whole = self._least = 0.0
        self._after = [_After(window) for window in _WINDOWS]

    def note(self, now: float, work: WorkRange) -> None:
        """Take in an arrival; one that tells its time late counts as the last before it."""
        self._now = now = max(now, self._now)
        for after in self._after:
            after.note(now, self._whole, self._least, work)
        self._whole += work.whole
        self._least += work.least

    def within(self, shortest_s: float, longest_s: float) -> list[tuple[float, WorkRange]]:
        """Return windows between two lengths in seconds, and the work that usually comes in each.

        Usually is the mean and one standard deviation.
        """
        return [
            (after.window_s, after.usual(self._whole, self._least))
            for after in self._after
            if shortest_s <= after.window_s <= longest_s
        ]


class _After:
    """What comes within one window.

    Attributes:
        window_s: Seconds.
    """

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        # When arrivals came of which the window is open, and the work that had come with them.
        self._open: deque[tuple[float, float, float]] = deque(maxlen=_MAX_OPEN)
        self._whole = _Running()
        self._least = _Running()

    def note(self, now: float, whole: float, least: float, work: WorkRange) -> None:
        """Take in an arrival, and the work that had come before it."""
        waiting = self._open
        while waiting and waiting[0][0] + self.window_s < now:
            _, then_whole, then_least = waiting.popleft()
            self._whole.note(max(0.0, whole - then_whole))
            self._least.note(max(0.0, least - then_least))
        waiting.append((now, whole + work.whole, least + work.least))

    def usual(self, whole: float, least: float) -> WorkRange:
        """Return what usually comes; while no window is over, what came since the first arrival."""
        if self._whole.count:
            return WorkRange(self._whole.usual, self._least.usual)
        if not self._open:
            return WorkRange(0.0, 0.0)
        _, then_whole, then_least = self._open[0]
        return WorkRange(max(0.0, whole - then_whole), max(0.0, least - then_least))


class _Running:
    """Mean and variance of the last figures; older ones are forgotten at once, however large."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_KEPT)
        self._sum = self._squares = 0.0

    @property
    def count(self) -> int:
        return len(self._last)

    def note(self, figure: float) -> None:
        gone = self._last[0] if len(self._last) == _KEPT else 0.0
        self._last.append(figure)
        self._sum += figure - gone
        self._squares += figure * figure - gone * gone

    @property
    def usual(self) -> float:
        """The mean and one standard deviation."""
        mean = self._sum / len(self._last)
        variance = self._squares / len(self._last) - mean * mean
        return max(0.0, mean) + math.sqrt(max(0.0, variance))

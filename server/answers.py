"""What the search has answered: remembered by question and price, whatever the moment's limits.

Limits on time and the engine's pace change with every request; the answers are few. The best subnet
within a limit stays the best within every shorter limit that it keeps, and a limit that is too
short makes every shorter one so.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

from models.variants import Choices
from search.budget import Budget, TooSlowError
from search.find import Finder, Selection
from search.floors import Floors
from search.terms import Terms
from search.timing.profile import LatencyProfile
from search.timing.timing import Timing

_MAX_QUESTIONS = 256  # with a few answers of some kilobytes each
_MAX_STEPS = 64  # answers of a question at one price
_FRESH_S = 1.0  # for so long nothing is searched anew because predictions have moved


class Asked(NamedTuple):
    """A question as the search takes it, hashable.

    Attributes:
        tasks: None for all.
        preferences: Weight per task; None for equal weights.
        budget: For each input.
        resident: Choices on load axes whose weights are built; None for all.
        floors: What a promised quality counts; None for what is expected.
    """

    tasks: tuple[str, ...] | None
    preferences: tuple[tuple[str, float], ...] | None
    budget: Budget
    resident: frozenset[Choices] | None
    floors: Floors | None = None

    @classmethod
    def of(
        cls,
        tasks: Sequence[str] | None,
        preferences: Mapping[str, float] | None,
        budget: Budget,
        resident: frozenset[Choices] | None,
        floors: Floors | None = None,
    ) -> Asked:
        """Return a question."""
        return cls(
            None if tasks is None else tuple(tasks),
            None if preferences is None else tuple(preferences.items()),
            budget,
            resident,
            floors,
        )


class _Step(NamedTuple):
    """An answer, and the limits on time that it is the answer to."""

    least_s: float
    most_s: float
    selection: Selection


class _Staircase:
    """Answers at one price and a pace of 1, by the limit on time."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []  # the shortest first
        self._too_slow: tuple[float, TooSlowError] | None = None

    def get(self, limit_s: float) -> Selection | None:
        """Return what is known; None for nothing.

        Raises:
            TooSlowError: As it was raised for this limit or a longer one.
        """
        if self._too_slow is not None and limit_s <= self._too_slow[0]:
            raise self._too_slow[1].with_traceback(None)  # or it would grow each time
        after = bisect_right(self._steps, limit_s, key=lambda step: step.least_s)
        step = self._steps[after - 1] if after else None
        return None if step is None or limit_s > step.most_s else step.selection

    def note(self, limit_s: float, selection: Selection) -> None:
        """Remember an answer to a limit."""
        least_s = -math.inf if selection.seconds is None else min(selection.seconds, limit_s)
        before = bisect_right(self._steps, least_s, key=lambda step: step.least_s) - 1
        if before >= 0 and self._steps[before].least_s == least_s:
            most_s = max(limit_s, self._steps[before].most_s)
            self._steps[before] = _Step(least_s, most_s, selection)
            return
        if len(self._steps) == _MAX_STEPS:
            self._steps.clear()
            before = -1
        self._steps.insert(before + 1, _Step(least_s, limit_s, selection))

    def note_too_slow(self, limit_s: float, error: TooSlowError) -> None:
        """Remember that nothing keeps a limit."""
        if self._too_slow is None or limit_s > self._too_slow[0]:
            self._too_slow = limit_s, error


class AnswersAtPrices:
    """Of one question."""

    def __init__(self, finder: Finder, asked: Asked, timing: Timing | None) -> None:
        self._finder, self._asked, self._timing = finder, asked, timing
        self._at: dict[float, _Staircase] = {}

    def find(self, price: float, max_seconds: float, pace: float) -> Selection:
        """Return the answer at a price within a limit on time, its time at the pace.

        Raises:
            TooSlowError: If nothing is as fast.
            InfeasibleBudgetError: As `Finder.find`.
        """
        try:
            found = self._within(price, max_seconds / pace)
        except TooSlowError as error:
            named, latency_ms = self._asked.budget.latency_ms, 1000 * max_seconds
            raise TooSlowError(
                latency_ms if named is None else named,
                pace * error.fastest_s,
                error.suffix,
                pace * error.cheapest_s,
            ) from None
        return found if found.seconds is None else replace(found, seconds=pace * found.seconds)

    def at(self, price: float) -> Selection:
        """Return the answer at a price, without a limit on time, at a pace of 1."""
        return self._within(price, math.inf)

    def _within(self, price: float, limit_s: float) -> Selection:
        known = self._at.setdefault(price, _Staircase())
        if (found := known.get(limit_s)) is not None:
            return found
        asked = self._asked
        preferences = None if asked.preferences is None else dict(asked.preferences)
        terms = Terms(price, self._timing, limit_s, resident=asked.resident, floors=asked.floors)
        try:
            found = self._finder.find(asked.tasks, preferences, asked.budget, terms=terms)
        except TooSlowError as error:
            known.note_too_slow(limit_s, error)
            raise
        known.note(limit_s, found)
        return found


class Answers:
    """To the last questions. For one event loop."""

    def __init__(self) -> None:
        self._of: OrderedDict[tuple[int, Asked, Timing | None], AnswersAtPrices] = OrderedDict()
        self._versions: WeakKeyDictionary[LatencyProfile, tuple[int, float]] = WeakKeyDictionary()

    def keep_version(self, profile: LatencyProfile, now: float) -> None:
        """Take up a profile's present version, unless one was taken up a moment ago.

        Where a machine is slow and fast by turns, predictions move many times a second. Searching
        anew each time would take from requests what better predictions give.
        """
        known = self._versions.get(profile)
        if known is None or now - known[1] >= _FRESH_S:
            self._versions[profile] = (profile.corrections.version, now)

    def timing(self, profile: LatencyProfile, num_items: int) -> Timing:
        """Return a profile's timing at the version last taken up, for a number of items."""
        timing = Timing.of(profile, num_items)
        known = self._versions.get(profile)
        if known is None or known[0] == timing.version:
            return timing
        return replace(timing, version=known[0])

    def to(
        self, finder: Finder, asked: Asked, profile: LatencyProfile | None, num_items: int
    ) -> AnswersAtPrices:
        """Return what is known of a question; the one asked longest ago is forgotten first."""
        timing = None if profile is None else self.timing(profile, num_items)
        key = (id(finder), asked, timing)  # what is kept holds the finder: its id is its own
        found = self._of.get(key)
        if found is None:
            found = self._of[key] = AnswersAtPrices(finder, asked, timing)
            if len(self._of) > _MAX_QUESTIONS:
                self._of.popitem(last=False)
        self._of.move_to_end(key)
        return found

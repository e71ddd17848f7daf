"""What the search has answered: remembered by question and price, whatever the moment's limits.

Limits on time and the engine's pace change with every request. Most limits do not bind, and the
answer without one is asked for again and again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

from models.variants import Choices
from search.budget import Budget
from search.find import Finder, Selection
from search.floors import Floors
from search.terms import Terms
from search.timing.profile import LatencyProfile
from search.timing.timing import Timing

_MAX_QUESTIONS = 256  # with a few answers of some kilobytes each
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


class AnswersAtPrices:
    """Of one question."""

    def __init__(self, finder: Finder, asked: Asked, timing: Timing | None) -> None:
        self._finder, self._asked, self._timing = finder, asked, timing
        self._at: dict[float, Selection] = {}

    def find(self, terms: Terms) -> Selection:
        """Return the answer under some terms; errors as for `Finder.find`."""
        asked = self._asked
        preferences = None if asked.preferences is None else dict(asked.preferences)
        terms = terms._replace(resident=asked.resident, floors=asked.floors)
        return self._finder.find(asked.tasks, preferences, asked.budget, terms=terms)

    def at(self, price: float) -> Selection:
        """Return the answer at a price, without a limit on time, at a pace of 1."""
        found = self._at.get(price)
        if found is None:
            found = self._at[price] = self.find(Terms(price, self._timing))
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
        key = (
            id(finder),
            asked,
            timing,
        )  # what is kept holds the finder, so that its id is its own
        found = self._of.get(key)
        if found is None:
            found = self._of[key] = AnswersAtPrices(finder, asked, timing)
            if len(self._of) > _MAX_QUESTIONS:
                self._of.popitem(last=False)
        self._of.move_to_end(key)
        return found

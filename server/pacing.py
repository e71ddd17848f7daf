"""What rankings in stages learn from one another: how far predictions hold, and models' rungs."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TypeVar

from models.variants import Choices
from search.find import Selection
from server.rungs import Rungs, ladder_to
from server.served import Served

_KEPT = 32  # stages of a model
_KEPT_ANSWERS = 256
_FORGET = 0.98  # what the longest of them counts less for each later one
_MARGIN = 1.5  # times that: the client has yet to read it
_MAX_MODELS = 256
_MAX_LADDERS = 64
_QUANTILE = 0.75
_UNKNOWN = 1.5  # times what is predicted, before anything was seen
_LEAST, _MOST = 0.05, 20.0
_SHORTEST_S = 0.015  # a shorter stage tells what comes on top, a longer one how fast it goes
_FIRST_S = 3e-4  # of a document in a first stage, before anything was seen
_LEAST_FIRST_S = 0.02  # of a first stage
_ANSWER_S, _EACH_S = 0.012, 2e-5  # to write an answer, and of each document in it

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class _Seen:
    """The last stages of a model.

    Attributes:
        ratios: Of long ones, time taken over time predicted.
        excesses: Of short ones, the time they took beyond it, seconds.
        firsts: Of first stages by the cheapest rung, the time for each document, seconds.
    """

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    excesses: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    firsts: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))


@dataclass(eq=False)
class Pacing:
    """For one event loop. Of models and ladders, those unused for longest are forgotten first."""

    _seen: OrderedDict[str, _Seen] = field(default_factory=OrderedDict)
    _answers: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_ANSWERS))
    _ladders: OrderedDict[tuple[object, ...], Rungs] = field(default_factory=OrderedDict)

    def ladder(
        self,
        served: Served,
        best: Selection,
        task: str,
        resident: frozenset[Choices] | None,
        by_time: bool,
    ) -> Rungs:
        """Return a model's rungs, from the last few; see `server.rungs.ladder_to`."""
        key = (id(served), best.subnet, task, resident, by_time)
        return _recalled(
            self._ladders,
            key,
            lambda: ladder_to(served, best, task, resident, by_time=by_time),
            _MAX_LADDERS,
        )

    def forget(self, served: Served) -> None:
        """Give up what is kept of a model that is served no more."""
        for key in [key for key, own in self._ladders.items() if own.served is served]:
            del self._ladders[key]

    def affordable_s(self, model: str, left_s: float) -> float:
        """Return how much predicted time of a model's steps nearly always fits into some time."""
        excess_s = _high(self._of(model).excesses, 0.0)
        return self.predicted_s(model, max(0.0, left_s - excess_s))

    def predicted_s(self, model: str, seconds: float) -> float:
        """Return the predicted time of a model's steps that lately took some time."""
        return seconds / _high(self._of(model).ratios, _UNKNOWN)

    def _of(self, model: str) -> _Seen:
        return _recalled(self._seen, model, _Seen, _MAX_MODELS)

    def note_stage(self, model: str, predicted_s: float, taken_s: float) -> None:
        """Take in a stage: what its steps were predicted to take, and what it took in all."""
        seen = self._of(model)
        if predicted_s >= _SHORTEST_S:
            seen.ratios.append(min(_MOST, max(_LEAST, taken_s / predicted_s)))
        else:
            seen.excesses.append(max(0.0, taken_s - predicted_s))

    def note_first(self, model: str, documents: int, taken_s: float) -> None:
        """Take in a first stage by the cheapest rung: its documents, and what it took in all."""
        self._of(model).firsts.append(taken_s / documents)

    def first_s(self, model: str, documents: int) -> float:
        """Return what has to be left of the time, once documents are read, to score all of them."""
        return max(_LEAST_FIRST_S, documents * _high(self._of(model).firsts, _FIRST_S))

    def answer_s(self, num_documents: int) -> float:
        """Return how long before its deadline an answer has to be begun."""
        longest_s = 0.0
        for seconds in self._answers:
            longest_s = max(_FORGET * longest_s, seconds)
        return max(_ANSWER_S, _MARGIN * longest_s) + _EACH_S * num_documents

    def note_answer(self, seconds: float) -> None:
        """Take in how long an answer took, from when it was to be begun until it was sent."""
        self._answers.append(max(0.0, seconds))


def _high(values: Collection[float], unknown: float) -> float:
    return sorted(values)[int(_QUANTILE * len(values))] if values else unknown


def _recalled(known: OrderedDict[K, V], key: K, make: Callable[[], V], most: int) -> V:
    if key not in known:
        known[key] = make()
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
    return known[key]

"""Which subnet a request gets: what it asks for, and what the moment leaves of that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from models.core import Shapes
from search.budget import InfeasibleBudgetError, TooSlowError
from search.find import TOLERANCE, Selection
from search.floors import Floors
from server.answers import Answers, AnswersAtPrices, Asked
from server.engine.engine import Engine
from server.engine.flows import Room
from server.engine.load import Load, LoadPolicy, Moment
from server.errors import InvalidRequestError, OverloadedError
from server.promises import Promises
from server.question import Question
from server.served import Served

__all__ = ["Choice", "Chooser", "Question", "RequestProgress"]

_ANY_PRICE = 1e9  # at which the cheapest subnet wins
_DOUBT = 1.25  # a wait is let in that may take this many times what is predicted
_BEYOND = 1.5  # times what is predicted for more rows than were measured, where it must hold
_FORGET = 0.9  # what a request weighs less in the mean run for each later one


@dataclass(frozen=True, slots=True)
class Choice:
    """A subnet, and how it came to be.

    Attributes:
        selection: What the search says of it.
        is_slimmed: Whether the request would have got a better one if nobody had waited.
        predicted_s: From the request read to its answer ready.
    """

    selection: Selection
    is_slimmed: bool
    predicted_s: float


@dataclass(frozen=True, slots=True)
class RequestProgress:
    """How far a request has come when its subnet is chosen.

    Attributes:
        num_items: Inputs, and what comes on top of them.
        spent_s: Since it arrived.
        waited_s: Of that, for others.
        room: What it holds in the engine.
        deadline: Of its items, on the engine's clock.
        now: On the same clock.
        num_behind: Requests that arrived by the time that it was begun, and were not.
    """

    num_items: int
    spent_s: float
    waited_s: float
    room: Room
    deadline: float = math.inf
    now: float = 0.0
    num_behind: int = 0


class Chooser:
    """Searches with the terms that a policy sets for the moment."""

    def __init__(
        self,
        engine: Engine,
        policy: LoadPolicy,
        floors: Callable[[Served], Floors | None] = lambda _: None,
    ) -> None:
        """Remember nothing yet.

        Args:
            engine: Runs what is chosen.
            policy: Of load.
            floors: Returns what a promised quality of a model now counts.
        """
        self._engine = engine
        self._policy = policy
        self._floors = floors
        self._promises = Promises()
        self._usual_s = 0.0  # that an item added to a batch lately, as predicted
        self._answers = Answers()

    def wanted(
        self,
        served: Served,
        question: Question,
        shapes: Shapes,
        num_items: int = 1,
        reading_s: float | None = None,
    ) -> Selection:
        """Return what a request gets when nobody waits.

        Args:
            served: The model.
            question: What is wanted of it.
            shapes: Of its items; each at least as large as that of any.
            num_items: Inputs, and what comes on top of them.
            reading_s: What reading its inputs took; None for what it usually takes.

        Raises:
            RequestError: If tasks, preferences or fixed values make no sense.
            InfeasibleBudgetError: If no subnet meets the budget. A latency that it names holds on
                an idle server, reading and searching included.
            InvalidRequestError: If the budget has a latency and nothing is known of times.
        """
        latency_ms = question.budget.latency_ms
        if latency_ms is not None and served.profile is None:
            raise InvalidRequestError(
                f"budget.latency_ms={latency_ms:g}: no times have been measured of {served.name}",
                "budget.latency_ms",
            )
        if reading_s is None:
            reading_s = self._promises.reading_s(served.name)
        left_s = math.inf
        if latency_ms is not None and self._policy.heeds_latency:
            left_s = latency_ms / 1000 - reading_s
        try:
            return self._find(served, question, shapes, num_items, max_seconds=left_s)
        except TooSlowError as error:
            assert latency_ms is not None
            assert served.profile is not None, "or nothing would be too slow"
            run_s = error.cheapest_s
            if num_items > served.profile.rows[-1]:
                run_s *= _BEYOND
            seconds = self._promises.seconds(served.name, run_s + reading_s)
            raise TooSlowError(latency_ms, seconds, error.suffix) from None

    def note_total(
        self, served: Served, question: Question, choice: Choice, seconds: float
    ) -> None:
        """Take in how long a request took from its arrival to its answer."""
        self._promises.note_total(served.name, choice.predicted_s, seconds)
        budget = question.budget
        if budget.latency_ms is not None and not budget.strict:
            self._policy.note(question.caller.client, 1000 * seconds > budget.latency_ms)

    def choose(
        self, served: Served, question: Question, shapes: Shapes, progress: RequestProgress
    ) -> Choice:
        """Return what a request gets now.

        Args:
            served: As in `wanted`.
            question: Likewise.
            shapes: Likewise.
            progress: How far it has come.

        Raises:
            OverloadedError: If its latency budget could be met but for those who wait, or its
                client will have stopped waiting by then.
        """
        if served.profile is not None:
            self._answers.keep_version(served.profile, progress.now)
        wanted = self._in_time(served, question, shapes, progress)
        own_s = (wanted.seconds or 0.0) / self._engine.pace
        delay_s = self._engine.delay_s(progress.room, own_s, progress.deadline)
        latency_ms = question.budget.latency_ms
        left_s = math.inf if latency_ms is None else latency_ms / 1000 - progress.spent_s
        is_open = self._policy.heeds_latency and not question.budget.strict

        answers = self._answers_to(served, question, shapes, progress.num_items)

        def seconds_at(price: float) -> float:
            found = answers.at(price) if price and is_open else wanted
            return self._added_s(found, progress.num_items)

        size = progress.num_items * wanted.cost.flops / wanted.fraction
        whose = progress.num_behind, question.caller.client
        arrived = progress.now - progress.spent_s
        moment = Moment(arrived, delay_s, left_s, size, seconds_at, *whose)
        load = self._policy.decide(moment)
        selection = wanted
        if is_open and not (load.price == 0 and load.max_seconds == left_s):
            selection = self._slimmed(served, question, shapes, progress.num_items, load)
        each_s = (selection.shared_seconds or 0.0) / progress.num_items
        self._usual_s = _FORGET * self._usual_s + (1 - _FORGET) * each_s
        run_s = selection.seconds or 0.0
        self._check_time(question, progress, delay_s, run_s)
        return Choice(
            selection,
            is_slimmed=selection.quality < wanted.quality - TOLERANCE,
            predicted_s=progress.spent_s + delay_s + run_s,
        )

    def _added_s(self, selection: Selection, num_items: int) -> float:
        """Predict what a request adds to the worker's time.

        What the engine needs on top is about as much for a small subnet as for a large one.
        """
        added_s, more = selection.shared_seconds or 0.0, self._engine.pace - 1
        return added_s + more * (num_items * self._usual_s if more > 0 else added_s)

    def _in_time(
        self, served: Served, question: Question, shapes: Shapes, progress: RequestProgress
    ) -> Selection:
        """Return what is wanted; a latency that waiting for others breaks is refused for now."""
        num_items, reading_s = progress.num_items, progress.spent_s - progress.waited_s
        self._promises.note_reading(served.name, reading_s)
        try:
            return self.wanted(served, question, shapes, num_items, progress.spent_s)
        except TooSlowError as error:
            if progress.waited_s:
                self.wanted(served, question, shapes, num_items, reading_s)
                raise OverloadedError(
                    f"budget.latency_ms={error.latency_ms:g} could be met, but the request waited "
                    f"{1000 * progress.waited_s:.3g} ms to be read",
                    progress.waited_s,
                ) from None
            raise

    def _check_time(
        self, question: Question, progress: RequestProgress, delay_s: float, run_s: float
    ) -> None:
        """Refuse for now what would be done too late."""
        latency_ms, timeout_s = question.budget.latency_ms, question.timeout_s
        limits = []
        if latency_ms is not None and self._policy.heeds_latency:
            left_s = latency_ms / 1000 - progress.spent_s
            limits.append((left_s, f"budget.latency_ms={latency_ms:g} could be met"))
        if timeout_s is not None:
            text = f"the client waits {timeout_s:g} s, which would do"
            limits.append((timeout_s - progress.spent_s, text))
        for left_s, text in limits:
            if delay_s and _DOUBT * delay_s + run_s > left_s:
                raise OverloadedError(
                    f"{text}, but the wait is now about {1000 * delay_s:.3g} ms",
                    delay_s - max(0.0, left_s - run_s) / _DOUBT,
                )

    def _slimmed(
        self, served: Served, question: Question, shapes: Shapes, num_items: int, load: Load
    ) -> Selection:
        """Return the best subnet at this load, or the cheapest if there is none in its time."""
        try:
            return self._find(served, question, shapes, num_items, *load)
        except InfeasibleBudgetError:
            return self._find(served, question, shapes, num_items, _ANY_PRICE)

    def _find(
        self,
        served: Served,
        question: Question,
        shapes: Shapes,
        num_items: int,
        price: float = 0.0,
        max_seconds: float = math.inf,
    ) -> Selection:
        answers = self._answers_to(served, question, shapes, num_items)
        return answers.find(price, max_seconds, self._engine.pace)

    def _answers_to(
        self, served: Served, question: Question, shapes: Shapes, num_items: int
    ) -> AnswersAtPrices:
        finder = served.finders.at(shapes, question.fixed)
        floors = None if question.budget.min_quality is None else self._floors(served)
        asked = Asked.of(
            question.tasks, question.preferences, question.budget, question.resident, floors
        )
        return self._answers.to(finder, asked, served.profile, num_items)

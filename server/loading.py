"""Which weights a request waits for: those of a better subnet, if there is time to build them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from models.core import Shapes
from models.variants import Choices, choices_of
from search.budget import InfeasibleBudgetError
from search.find import TOLERANCE, Selection
from server.choose import Choice, Chooser, Question, RequestProgress
from server.errors import ModelNotReadyError, OverloadedError
from server.served import Served
from server.variants import Variants

_TRIES = 3  # a variant may be given up for another while its request waits


class Loading:
    """Chooses among all variants of a model, and has those built that are worth it."""

    def __init__(self, chooser: Chooser, variants: Variants, clock: Callable[[], float]) -> None:
        self._chooser = chooser
        self._variants = variants
        self._clock = clock

    async def choose(
        self, served: Served, question: Question, shapes: Shapes, progress: RequestProgress
    ) -> Choice:
        """Return what a request gets now; arguments as for `Chooser.choose`.

        | the best subnet's weights | time to build them | the request |
        |---|---|---|
        | are there | | runs |
        | are not, others do | yes | waits for them and runs |
        | are not, others do | no | runs with others; they are built beside |
        | are not, no others do | yes | waits for them and runs |
        | are not, no others do | no | is refused for now; they are built beside |

        Raises:
            OverloadedError: In the last case, with the time that building is predicted to take.
            ModelNotReadyError: If the weights cannot be had.
            Exception: As `Chooser.choose`.
        """
        if (resident := self._variants.resident(served)) is None:
            return self._chooser.choose(served, question, shapes, progress)
        for _ in range(_TRIES):
            started = self._clock()
            built = replace(question, resident=resident)
            wanted = self._better(served, built, shapes, progress)
            if wanted is None:
                return self._chooser.choose(served, built, shapes, progress)
            choices, is_needed = wanted
            build_s = self._variants.predicted_s(served)
            if build_s < _left_s(question, progress):
                await self._variants.build(served, choices)
                waited = self._clock() - started
                progress = replace(progress, spent_s=progress.spent_s + waited)
                resident = self._variants.resident(served) or resident
                continue
            self._variants.begin(served, choices)
            if not is_needed:
                return self._chooser.choose(served, built, shapes, progress)
            raise OverloadedError(
                f"budget could be met with {list(choices)}, whose weights are not built; building "
                f"takes about {build_s:.3g} s",
                build_s,
            )
        raise ModelNotReadyError(f"{served.name}: weights are given up as soon as they are built")

    def _better(
        self, served: Served, question: Question, shapes: Shapes, progress: RequestProgress
    ) -> tuple[Choices, bool] | None:
        """Return what to build for a better answer, and whether there is none without it."""
        space, possible = served.elastic.space, self._variants.possible(served)
        anything = replace(question, resident=possible)
        reading_s = progress.spent_s
        try:
            best = self._chooser.wanted(served, anything, shapes, progress.num_items, reading_s)
        except InfeasibleBudgetError:
            return None  # which the choice among what is built then says
        choices = choices_of(space, best.subnet)
        if question.resident is None or choices in question.resident:
            return None
        try:
            now = self._chooser.wanted(served, question, shapes, progress.num_items, reading_s)
        except InfeasibleBudgetError:
            return choices, True
        return (choices, False) if _is_better(best, now, question) else None


def _is_better(best: Selection, now: Selection, question: Question) -> bool:
    if question.budget.min_quality is not None:
        return best.fraction < now.fraction - TOLERANCE
    return best.quality > now.quality + TOLERANCE


def _left_s(question: Question, progress: RequestProgress) -> float:
    """Return how long a request may still take."""
    budget, left_s = question.budget, inf
    if budget.latency_ms is not None:
        left_s = budget.latency_ms / 1000 - progress.spent_s
    if question.timeout_s is not None:
        left_s = min(left_s, question.timeout_s - progress.spent_s)
    return left_s

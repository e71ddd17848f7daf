"""The whole model of `rheostat elasticize`, and how much of a user's data it can be run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from models.elasticize.streams import Stack
from models.tasks import Task
from search.offline.options import RunOptions
from search.quality.items import Batches, Item
from search.quality.table import FloatArray

T = TypeVar("T")
TABLE_PART = 0.15  # of the time, for the table
_CHOOSING_PART = 0.3  # of the time, for running cuts on the part that chooses
_LEAST_CUTS = 40  # that shall be run in it
PACE_ITEMS = 8  # run to see how fast the model is
MARGIN = 1.5  # for what is slower than the whole model was at first: small batches, other work


@dataclass
class Whole:
    """The whole model, as far as reading a user's data needs it.

    Attributes:
        answers: Function of items to unit vectors, logits or scores, shape [items, ...].
        task: That it answers.
        tokens: Function of items to the tokens of all of them.
        for_choosing: Seconds that one run of the part that chooses may take.
        for_reporting: Of the part that reports.
        clock: In seconds.
        pace: Seconds per token; 0 until `time` was called.
    """

    answers: Callable[[Sequence[Item]], FloatArray]
    task: Task
    tokens: Callable[[Sequence[Item]], int]
    for_choosing: float
    for_reporting: float
    clock: Callable[[], float]
    pace: float = 0.0

    def time(self, items: Sequence[Item]) -> None:
        """Find out how fast the model is on some of the user's items, read and run."""
        self.pace = seconds_of(lambda: self.answers(items), self.clock) / self.tokens(items)

    @property
    def choosing(self) -> float:
        """Most tokens of the part that chooses."""
        return self._afforded(self.for_choosing)

    @property
    def reporting(self) -> float:
        """Most tokens of the part that reports."""
        return self._afforded(self.for_reporting)

    def _afforded(self, seconds: float) -> float:
        return seconds / (MARGIN * self.pace) if self.pace else float("inf")

    def within(
        self, entries: Sequence[T], items_of: Callable[[T], Sequence[Item]], most: float, least: int
    ) -> list[T]:
        """Return the first entries that a number of tokens allows, at least some."""
        found: list[T] = []
        total = 0
        for entry in entries:
            total += self.tokens(items_of(entry))
            if total > most and len(found) >= least:
                break
            found.append(entry)
        return found


def answers_of(model: Any, items: Sequence[Item]) -> FloatArray:
    """Return the whole model's answers: unit vectors, logits or scores, shape [items, ...]."""
    stack = Stack(model)
    batches = Batches(model, items)
    rows = []
    with torch.no_grad():
        for batch in batches:
            rows.append(stack.leave(stack.through(stack.enter(batch))))
    return batches.in_order(torch.cat(rows).double().numpy())


def whole_of(model: Any, options: RunOptions, clock: Callable[[], float]) -> Whole:
    """Return the whole model and how long it may be run.

    Args:
        model: The whole model.
        options: See `RunOptions`.
        clock: In seconds.

    Raises:
        ValueError: If it answers with a map.
    """
    (task,) = model.tasks.values()
    if task.kind == "map":
        raise ValueError(f"{model.name} answers with a map; vectors, classes or scores are needed")
    passes = 2 * (sum(options.keep) + 1) + 1  # each cut with 32 and 8 bits, and to compare with
    return Whole(
        answers=lambda items: answers_of(model, items),
        task=task,
        tokens=lambda items: Batches(model, items).tokens,
        for_choosing=_CHOOSING_PART * options.seconds / _LEAST_CUTS,
        for_reporting=TABLE_PART * options.seconds / passes,
        clock=clock,
    )


def seconds_per_token(model: Any, items: Sequence[Item], clock: Callable[[], float]) -> float:
    """Return what the whole model takes for a token of the first of some items, read and run."""
    few = items[:PACE_ITEMS]
    return seconds_of(lambda: answers_of(model, few), clock) / Batches(model, few).tokens


def seconds_of(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return what a run takes where an earlier one has made what is kept from then on."""
    run()
    started = clock()
    run()
    return max(clock() - started, 1e-6)

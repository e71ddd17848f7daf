"""The whole model of `rheostat elasticize`, and how much of a user's data it can be run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from models.elasticize.streams import Stack
from models.inputs import Inputs
from models.tasks import Task
from search.offline.options import RunOptions
from search.quality.items import Batches, Item
from search.quality.table import FloatArray

T = TypeVar("T")
TABLE_PART = 0.15  # of the time, for the table
_CHOOSING_PART = 0.3  # of the time, for running cuts on the part that chooses
_LEAST_CUTS = 40  # that shall be run in it
_PACE_ITEMS = 8  # run to see how fast the model is
_PACE_LENGTH = 32
_MARGIN = 1.5  # for what is slower than the whole model was at first: small batches, other work


@dataclass(frozen=True)
class Whole:
    """The whole model, as far as reading a user's data needs it.

    Attributes:
        answers: Function of items to unit vectors, logits or scores, shape [items, ...].
        task: That it answers.
        tokens: Function of items to the tokens of all of them.
        choosing: Most tokens of the part that chooses.
        reporting: Of the part that reports.
    """

    answers: Callable[[Sequence[Item]], FloatArray]
    task: Task
    tokens: Callable[[Sequence[Item]], int]
    choosing: float
    reporting: float

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
    """Return the whole model and how many tokens there is time for.

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
    pace = seconds_per_token(model, clock)
    passes = 2 * (sum(options.keep) + 1) + 1  # each cut with 32 and 8 bits, and to compare with
    afford = options.seconds / (_MARGIN * pace)
    return Whole(
        answers=lambda items: answers_of(model, items),
        task=task,
        tokens=lambda items: Batches(model, items).tokens,
        choosing=_CHOOSING_PART * afford / _LEAST_CUTS,
        reporting=TABLE_PART * afford / passes,
    )


def seconds_per_token(model: Any, clock: Callable[[], float]) -> float:
    """Return what the whole model takes for a token of some examples."""
    inputs: Inputs = model.inputs
    lengths = inputs.lengths(inputs.plan_shapes()).values()
    example = inputs.example(min(_PACE_LENGTH, *lengths) if lengths else None)
    stack, batch = Stack(model), inputs.batch([example] * _PACE_ITEMS)

    def timed() -> float:
        started = clock()
        x = stack.through(stack.enter(batch))
        stack.leave(x)
        return max(clock() - started, 1e-6) / len(x.values)

    with torch.no_grad():
        timed()  # makes what is kept from then on
        return timed()

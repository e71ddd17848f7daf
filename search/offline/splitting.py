"""A user's data in three parts: one fits, one chooses, one reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Generic, TypeVar

from models.train.texts import normal
from search.offline.whole import PACE_ITEMS, Whole
from search.quality.items import Item

T = TypeVar("T")
MOST_MEASURED = 1000  # entries of the part that reports
MOST_CHOOSING = 600
LEAST_HELD_OUT = 20  # entries that choose or report, however short the time is
_SHARES = (0.6, 0.8)  # ends of the parts that fit and choose


class Split(Generic[T]):
    """Entries in three parts that share no item, in the order drawn."""

    def __init__(
        self,
        entries: Sequence[T],
        texts_of: Callable[[T], Sequence[str]],
        items_of: Callable[[T], Sequence[Item]],
        rng: Random,
    ) -> None:
        """Split entries.

        Args:
            entries: Pairs, texts, images ...
            texts_of: What of an entry must be in one part alone: texts, or digests.
            items_of: What is run of an entry.
            rng: Draws the split.
        """
        self._items_of = items_of
        self._parts = parts(entries, texts_of, rng)

    def within(
        self, whole: Whole, items_of: Callable[[T], Sequence[Item]] | None = None
    ) -> tuple[list[T], list[T], list[T]]:
        """Return the parts that fit, choose and report, as far as there is time for them.

        Args:
            whole: The whole model.
            items_of: What is run of an entry, in place of what was said.
        """
        fit, choose, report = self._parts
        items_of = items_of or self._items_of
        whole.time([item for entry in fit[:PACE_ITEMS] for item in items_of(entry)])
        return (
            fit,
            whole.within(choose[:MOST_CHOOSING], items_of, whole.choosing, LEAST_HELD_OUT),
            whole.within(report[:MOST_MEASURED], items_of, whole.reporting, LEAST_HELD_OUT),
        )


def parts(
    items: Sequence[T], texts_of: Callable[[T], Sequence[str]], rng: Random
) -> tuple[list[T], list[T], list[T]]:
    """Split items into three parts, 60, 20 and 20 per cent, that share no text.

    Items that have a text in common, letters and digits alone, go together.
    """
    group: dict[str, int] = {}
    joined: list[int] = []  # a forest: each group's parent

    def root(i: int) -> int:
        while joined[i] != i:
            joined[i] = joined[joined[i]]
            i = joined[i]
        return i

    own = []
    for item in items:
        joined.append(len(joined))
        number = len(joined) - 1
        for text in texts_of(item):
            number_of_text = group.setdefault(normal(text), number)
            joined[root(number)] = root(number_of_text)
        own.append(number)
    members: dict[int, list[T]] = {}
    for item, number in zip(items, own, strict=True):
        members.setdefault(root(number), []).append(item)
    order = list(members.values())
    rng.shuffle(order)
    found: tuple[list[T], list[T], list[T]] = ([], [], [])
    taken = 0
    for together in order:
        share = taken / len(items)
        found[sum(share >= end for end in _SHARES)].extend(together)
        taken += len(together)
    return found

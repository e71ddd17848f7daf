"""The nearest items under a scorer of pairs, from few of its calls: CUR beside re-ranking a list.

Scores of some queries with all items are known from before. A new query's scores with a few anchor
items then say what they are likely to be with all: they are put together out of the known rows,
as the anchor items' own are. The most likely items are scored, and that is the answer. It needs no
vectors of items. Where there are vectors, the other way is to score the first of the list that they
give. Which finds more for equal calls depends on both, so it is measured.

Source: Yadav, Monath, Angell, Zaheer and McCallum 2022, Efficient Nearest Neighbor Search for
Cross-Encoder Models using Matrix Factorization, EMNLP (arXiv 2210.12579).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from search.lengths import IntArray
from search.quality.table import FloatArray

_CONDITION = 1e-6  # singular values below this part of the largest are rounding
ANCHOR_PART = 0.5  # of the calls; the others score the most likely items
SIZES = (1, 10, 50)
CALLS = (20, 40, 80, 160)


class Duel(NamedTuple):
    """What both ways find of the nearest, for equal calls.

    Attributes:
        k: Nearest items that are wanted.
        calls: Of the scorer.
        cur: Mean part of the nearest that CUR finds.
        listed: Mean part that re-ranking the first of a list finds.
        stderr: Of the difference, over queries.
        n: Queries, none of them among those known from before.
    """

    k: int
    calls: int
    cur: float
    listed: float
    stderr: float
    n: int


@dataclass(frozen=True, eq=False)
class Anchors:
    """Known scores, drawn up for one number of anchor items.

    Attributes:
        items: Anchors, shape [anchors].
        spread: What a score with each anchor says of all items, shape [anchors, items].
    """

    items: IntArray
    spread: FloatArray

    @classmethod
    def of(cls, known: FloatArray, count: int, seed: int = 0) -> Anchors:
        """Choose anchors at random.

        Args:
            known: Scores of some queries with all items, shape [queries, items].
            count: Of the anchors.
            seed: Of the choice.
        """
        rng = np.random.default_rng(seed)
        items = np.sort(rng.choice(known.shape[1], min(count, known.shape[1]), replace=False))
        spread = np.linalg.pinv(known[:, items], rcond=_CONDITION) @ known
        return cls(items, spread)

    def estimate(self, scores: FloatArray) -> FloatArray:
        """Return scores with all items, shape [..., items], from those with the anchors."""
        found: FloatArray = scores @ self.spread
        return found

    def likely(self, scores: FloatArray, count: int) -> IntArray:
        """Return the items that are likely to have the highest scores, other than the anchors.

        Args:
            scores: Of one query with the anchors, shape [anchors].
            count: Of items.
        """
        estimated = self.estimate(scores)
        estimated[self.items] = -np.inf
        order = np.argsort(-estimated, kind="stable")
        return order[: min(count, len(order) - len(self.items))]


def num_anchors(calls: int) -> int:
    """Return how many of some calls are for anchors."""
    return max(1, round(ANCHOR_PART * calls))


def duels(known: FloatArray, scores: FloatArray, cosines: FloatArray) -> list[Duel]:
    """Compare both ways on queries all of whose scores are known.

    Args:
        known: Scores of other queries with all items, shape [known queries, items].
        scores: Of these queries, shape [queries, items].
        cosines: By which the list is in order, shape [queries, items].
    """
    return list(_duels(known, scores, cosines))


def _duels(known: FloatArray, scores: FloatArray, cosines: FloatArray) -> Iterator[Duel]:
    count, items = scores.shape
    for calls in (one for one in CALLS if one < items):
        anchors = Anchors.of(known, num_anchors(calls))
        rest = calls - len(anchors.items)
        seen = [
            np.append(anchors.items, anchors.likely(own[anchors.items], rest)) for own in scores
        ]
        listed = np.argsort(-cosines, axis=1, kind="stable")[:, :calls]
        for k in (one for one in SIZES if one <= calls):
            by_cur, by_list = (_found(scores, of, k) for of in (seen, list(listed)))
            difference = by_cur - by_list
            error = difference.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
            yield Duel(k, calls, float(by_cur.mean()), float(by_list.mean()), float(error), count)


def _found(scores: FloatArray, seen: Sequence[IntArray], k: int) -> FloatArray:
    """Return the part of each query's k nearest items that is among those seen."""
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.array([np.isin(own, of).mean() for own, of in zip(nearest, seen, strict=True)])


def duel_for(measured: Sequence[Duel], k: int, calls: int) -> Duel | None:
    """Return what was measured nearest to what is asked: as many calls at most, and as large a k.

    Args:
        measured: By `duels`.
        k: Nearest items that are wanted.
        calls: Of the scorer.
    """
    fewer = [one for one in measured if one.calls <= calls]
    if not fewer:
        return None
    most = max(one.calls for one in fewer)
    by_k = [one for one in fewer if one.calls == most]
    return min(by_k, key=lambda one: (one.k < k, abs(one.k - k)))

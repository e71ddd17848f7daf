"""Which documents of a list to score more closely next, and how: the most order for the cost.

A list can be scored in several ways, its *rungs*, from the cheapest to the best. What the best rung
would say of a document is believed to lie around a mean, with an error that is smaller the closer
the document was looked at; both in standard deviations of the list's scores. A look at a document
is worth what it may move it over one of the first places, each place weighed by how much its
discount in DCG exceeds the next one's. That is the knowledge gradient for independent beliefs; with
logistic beliefs in place of normal ones it has a closed form without the error function.

Costs are in any unit: seconds, or multiply-accumulates. No clocks, no models.

Sources: Frazier, Powell and Dayanik 2008, A Knowledge-Gradient Policy for Sequential Information
Collection, SIAM J. Control Optim. 47(5), for the worth of a look; Järvelin and Kekäläinen 2002,
Cumulated Gain-Based Evaluation of IR Techniques, ACM TOIS 20(4), for the discount.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from search.beliefs import LOGISTIC, TINY, UNSCORED, Beliefs, within
from search.lengths import IntArray
from search.quality.table import FloatArray

_MOST_PLACES = 16  # places that are told apart; further ones stand for several
_NOTHING = 1e-4  # of what the best rung could gain in all, a look is worth no less


class Look(NamedTuple):
    """What to score next.

    Attributes:
        rung: How.
        documents: Their numbers, those most worth a look first; shape [chosen].
        cost: Of all of them.
    """

    rung: int
    documents: IntArray
    cost: float


def gains(beliefs: Beliefs, agreement: float, first: int) -> FloatArray:
    """Return what a look at each document by a rung is worth, in DCG of standardised scores.

    Args:
        beliefs: Of the list.
        agreement: Of the rung, as for `Beliefs.learn`.
        first: Number of places that count.

    Returns:
        Shape [documents]; 0 where nothing would be learnt.
    """
    learnt = np.sqrt(np.maximum(beliefs.error**2 - (1 - within(agreement) ** 2), 0.0))
    places, weights = _places(min(first, len(learnt) - 1))
    if not len(places):
        return np.zeros_like(learnt)
    totals = -np.sort(-beliefs.total)
    limits = (totals[places - 1] + totals[places]) / 2
    scale = np.maximum(LOGISTIC * learnt, TINY)[:, None]
    distance = np.abs(beliefs.total[:, None] - limits) / scale
    worth: FloatArray = (scale * np.log1p(np.exp(-distance))) @ weights
    worth[learnt <= 0] = 0.0
    return worth


def next_stage(
    beliefs: Beliefs,
    agreements: Sequence[float],
    costs: FloatArray,
    starts: FloatArray,
    left: float,
    first: int,
    most: float = math.inf,
) -> Look | None:
    """Choose what to score next.

    Of each rung the documents most worth their cost are taken, as far as the rest of the budget
    goes; the rung that gains most in all is chosen, and of its documents the first few, so that the
    choice is made anew with what they show. Before anything is scored, all documents are, by the
    rung from which most can be gained with what it leaves.

    Args:
        beliefs: Of the list.
        agreements: Of each rung, ascending, with the best rung's scores; the best has 1.
        costs: Of one more look at each document, shape [rungs, documents]; infinity where it has
            been looked at as closely. Every other is above 0.
        starts: What a stage of each rung costs besides, shape [rungs]; 0 once that is paid.
        left: Of the budget.
        first: Number of places of the list that count.
        most: Cost of one stage; one document may exceed it.

    Returns:
        None if nothing is left that is worth its cost.
    """
    if (beliefs.rung == UNSCORED).all():
        return _first_stage(beliefs, agreements, costs, starts, left, first)
    chosen, best = None, 0.0
    least = _NOTHING * ideal(len(beliefs.mean), first)
    for rung, agreement in enumerate(agreements):
        worth = gains(beliefs, agreement, first)
        documents = _affordable(worth, costs[rung], left - starts[rung], least)
        if not len(documents):
            continue
        summed = starts[rung] + np.cumsum(costs[rung][documents])
        some = documents[: max(1, int(np.searchsorted(summed, most, side="right")))]
        stage = Look(rung, some, float(summed[len(some) - 1]))
        # Without a limit every rung could have everything; what counts is the gain for its cost.
        is_bounded = left < math.inf
        gained = float(worth[documents].sum() if is_bounded else worth[some].sum() / stage.cost)
        if gained > best:
            chosen, best = stage, gained
    return chosen


def ideal(count: int, first: int) -> float:
    """Return the DCG of a list of standardised scores in perfect order."""
    return float(_discounts(min(first, count)) @ _quantiles(count)[: min(first, count)])


def _first_stage(
    beliefs: Beliefs,
    agreements: Sequence[float],
    costs: FloatArray,
    starts: FloatArray,
    left: float,
    first: int,
) -> Look | None:
    """Score all documents by the rung that, with what it leaves for the others, gains most."""
    count = len(beliefs.mean)
    everything, most = np.arange(count), ideal(count, first)
    whole = starts + costs.sum(axis=1)
    chosen, best = 0, -math.inf
    for rung, agreement in enumerate(agreements):
        if whole[rung] > left:
            continue
        after = Beliefs.none(count).learn(rung, agreement, everything, _quantiles(count))
        follow = [0.0]
        for next_, closer in enumerate(agreements[rung + 1 :], rung + 1):
            # At most what the closer rung would cost from the start: what it shares is not known.
            rest = left - whole[rung] - starts[next_]
            worth = gains(after, closer, first)
            follow.append(float(worth[_affordable(worth, costs[next_], rest, 0.0)].sum()))
        value = min(most, agreement * most + max(follow))
        if left == math.inf:
            value = -whole[rung]  # without a limit the cheapest comes first
        if value > best + _NOTHING * most:
            chosen, best = rung, value
    summed = starts[chosen] + np.cumsum(costs[chosen])
    if not math.isfinite(summed[-1]):
        return None
    documents = everything[: int(np.searchsorted(summed, left, side="right"))]
    return Look(chosen, documents, float(summed[len(documents) - 1])) if len(documents) else None


def _affordable(worth: FloatArray, costs: FloatArray, left: float, least: float) -> IntArray:
    """Return the documents that are worth more than a little, for their cost, and fit together."""
    candidates = np.flatnonzero((worth > least) & np.isfinite(costs))
    order = candidates[np.argsort(-worth[candidates] / costs[candidates], kind="stable")]
    fitting: IntArray = order[np.cumsum(costs[order]) <= left]
    return fitting


def _discounts(first: int) -> FloatArray:
    found: FloatArray = 1 / np.log2(np.arange(2, first + 2))
    return found


@lru_cache(256)
def _places(first: int) -> tuple[IntArray, FloatArray]:
    """Return places after which a document counts less, and by how much, of some neighbours."""
    if first < 1:
        return np.zeros(0, np.int64), np.zeros(0)
    falls = _discounts(first) - np.append(_discounts(first)[1:], 0.0)
    ends = np.unique(np.geomspace(1, first, min(first, _MOST_PLACES)).round().astype(np.int64))
    starts = np.append(0, ends[:-1])
    return ends, np.array([falls[a:b].sum() for a, b in zip(starts, ends, strict=True)])


@lru_cache(64)
def _quantiles(count: int) -> FloatArray:
    """Return expected order statistics of normal scores, the greatest first (Blom 1958)."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((count - i - 0.375) / (count + 0.25)) for i in range(count)])

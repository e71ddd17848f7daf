"""What is believed of the documents of a list, from scores of several kinds.

What the best kind of score, the best *rung*, would say of a document is believed to lie around a
mean, with an error that is smaller the closer the document was looked at; both in standard
deviations of the list's scores. Beliefs are logistic: near enough to normal ones, and in closed
form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.lengths import IntArray
from search.quality.table import FloatArray

UNSCORED = -1
LOGISTIC = math.sqrt(3) / math.pi  # scale of a logistic distribution of standard deviation 1
TINY = 1e-12
_MOST_AGREEMENT = 0.9995  # of a rung that is not the best
_FAR, _HALVINGS = 5.0, 30
_SHARPEST = 1e-3  # scale of a certain score: a doubtful one beside it then shares a place


@dataclass(frozen=True)
class Beliefs:
    """What is believed of each document of a list; all arrays have shape [documents].

    Documents are put in order by what the best rung is believed to say, and what counts beside it.

    Attributes:
        mean: Expected score by the best rung, in standard deviations of the list from its mean.
        error: Standard deviation of what the best rung would say around the mean.
        rung: The highest by which each was scored; `UNSCORED` for none.
        raw: Its score by that rung; 0 where there is none.
        prior: Mean before that rung.
        doubt: Error before that rung.
        beside: What counts beside the best rung's score, in its standard deviations.
    """

    mean: FloatArray
    error: FloatArray
    rung: NDArray[np.int64]
    raw: FloatArray
    prior: FloatArray
    doubt: FloatArray
    beside: FloatArray

    @classmethod
    def none(cls, count: int, beside: FloatArray | None = None) -> Beliefs:
        """Return what is believed before anything was scored; nothing counts beside by default."""
        nothing, unknown = np.zeros(count), np.ones(count)
        rung = np.full(count, UNSCORED, dtype=np.int64)
        beside = nothing if beside is None else beside
        return cls(nothing, unknown, rung, nothing, nothing, unknown, beside)

    @property
    def total(self) -> FloatArray:
        """What documents are put in order by: the best rung's expected score and what is beside."""
        return self.mean + self.beside

    def with_part(self, places: ArrayLike, part: Beliefs) -> Beliefs:
        """Return these with what is believed of some documents in place of what was.

        Args:
            places: Of the documents, each once.
            part: Beliefs of a list that is these alone.
        """
        at = np.asarray(places, dtype=np.int64)
        found = {}
        for one in fields(self):
            found[one.name] = getattr(self, one.name).copy()
            found[one.name][at] = getattr(part, one.name)
        return Beliefs(**found)

    @property
    def order(self) -> IntArray:
        """The documents, best first; those without a score last, by what counts beside it."""
        return np.lexsort((-self.total, self.rung == UNSCORED))

    def learn(
        self, rung: int, agreement: float, documents: ArrayLike, scores: ArrayLike
    ) -> Beliefs:
        """Take in scores by a higher rung than these documents had.

        Rungs have scales of their own. The scores of all documents that are at a rung are shifted
        and stretched so that they have the mean and the spread that was believed of them before.

        Args:
            rung: Of the scores.
            agreement: Correlation of its scores with the best rung's, 0..1; 1 for the best.
            documents: Numbers, each once.
            scores: Of these.
        """
        at = np.asarray(documents, dtype=np.int64)
        rungs, raw = self.rung.copy(), self.raw.copy()
        prior, doubt = self.prior.copy(), self.doubt.copy()
        rungs[at], raw[at] = rung, scores
        prior[at], doubt[at] = self.mean[at], self.error[at]
        here = rungs == rung
        own, kept = raw[here], within(agreement)
        spread = kept**2 * (prior[here].var() + (doubt[here] ** 2).mean()) + 1 - kept**2
        deviation = float(own.std())
        stretch = math.sqrt(spread) / deviation if deviation > TINY else 0.0
        standard = kept * prior[here].mean() + stretch * (own - own.mean())
        mean, error = self.mean.copy(), self.error.copy()
        mean[here], error[here] = kept * standard, math.sqrt(1 - kept**2)
        return replace(self, mean=mean, error=error, rung=rungs, raw=raw, prior=prior, doubt=doubt)


def scores_of(beliefs: Beliefs) -> FloatArray:
    """Return scores in the order of the beliefs, on the scale of the highest rung reached.

    Those that reached it have their own; the others' means are put on its scale, and so is what
    counts beside. Where those that reached it do not tell a scale, since there is one or all are
    equal, the next rung's is used.
    """
    top = int(beliefs.rung.max())
    if top == UNSCORED:
        return np.zeros(len(beliefs.raw))
    there, slope = beliefs.rung == top, _slope(beliefs)
    found = beliefs.raw + slope * beliefs.beside
    if not there.all():
        own, known = beliefs.raw[there].mean(), beliefs.mean[there].mean()
        found[~there] = own + slope * (beliefs.total[~there] - known)
        least = found[beliefs.rung != UNSCORED].min()
        found[beliefs.rung == UNSCORED] = least
    return found


def _slope(beliefs: Beliefs) -> float:
    """Return what one standard deviation is in scores, by the highest rung that tells."""
    for rung in sorted({*beliefs.rung.tolist()} - {UNSCORED}, reverse=True):
        raw, known = beliefs.raw[beliefs.rung == rung], beliefs.mean[beliefs.rung == rung]
        if known.std() > TINY:
            return float(raw.std() / known.std())
    return 0.0


def overlap(beliefs: Beliefs, first: int) -> float:
    """Return the part of the first documents that is expected among the best rung's first, 0..1.

    Args:
        beliefs: Of the list.
        first: Number of places that count; of a short list half, since of all places none could
            go to other documents, however the list is ordered.
    """
    order = beliefs.order
    first = min(first, math.ceil(len(order) / 2))
    if first == len(order):
        return 1.0
    scale = np.maximum(LOGISTIC * beliefs.error, _SHARPEST)
    total = beliefs.total
    low, high = float(total.min()) - 1, float(total.max()) + _FAR
    for _ in range(_HALVINGS):  # to the score that as many are expected to exceed
        middle = (low + high) / 2
        is_low = logistic((total - middle) / scale).sum() > first
        low, high = (middle, high) if is_low else (low, middle)
    there, limit = order[:first], (low + high) / 2
    return float(logistic((total[there] - limit) / scale[there]).mean())


def within(agreement: float) -> float:
    """Return an agreement as it is counted on: that of no rung but the best is whole."""
    return 1.0 if agreement >= 1 else min(max(agreement, 0.0), _MOST_AGREEMENT)


def logistic(values: FloatArray) -> FloatArray:
    """Return the logistic function of each value."""
    found: FloatArray = 0.5 * (1 + np.tanh(0.5 * values))
    return found

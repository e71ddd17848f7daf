"""Measure answers by what they keep of another model's, or by the classes they tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from models.tasks import Kind
from search.quality.embeddings import (
    Evaluation,
    Measured,
    mean_of,
    rank_correlation,
    share_of,
)
from search.quality.items import Item
from search.quality.table import FloatArray

_TINY = 1e-12
_PENALTY = 1.0  # of the probe's ridge regression, on unit vectors


class AgreementQuality:
    """How far the texts lie as they do for the whole model.

    Per text, the correlation between its similarities to all others by the two models; the score is
    the mean over texts. Neighbours, and distances between what is far apart, both count.

    Source: Kriegeskorte, Mur and Bandettini 2008, Representational Similarity Analysis, Frontiers
    in Systems Neuroscience 2:4, for comparing models by their similarities.
    """

    def __init__(self, texts: Sequence[Item], whole: FloatArray) -> None:
        """Take the whole model's unit vectors, shape [texts, dim]; ValueError for under 3 texts."""
        if len(texts) < 3:
            raise ValueError(f"{len(texts)} texts: agreement needs three or more")
        self.texts = texts
        self._whole = _standard(whole @ whole.T)

    def score(self, vectors: FloatArray) -> Measured:
        """Return the mean correlation and its standard error over texts."""
        found = (self._whole * _standard(vectors @ vectors.T)).sum(axis=1)
        stderr = found.std(ddof=1) / np.sqrt(len(found))
        return Measured(float(np.clip(found.mean(), 0, 1)), len(found), float(stderr))


def _standard(similarities: FloatArray) -> FloatArray:
    """Return rows without their diagonal entry, of mean 0 and length 1."""
    n = len(similarities)
    rows = similarities[~np.eye(n, dtype=np.bool_)].reshape(n, n - 1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    scaled: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY)
    return scaled


class ProbeQuality:
    """Accuracy of a linear classifier that is fitted to the vectors of labelled texts.

    It is fitted anew for each model, by ridge regression onto one column per class, as whoever uses
    the vectors would.
    """

    def __init__(
        self,
        examples: Sequence[tuple[Item, str]],
        held_out: Sequence[tuple[Item, str]],
    ) -> None:
        """Take (item, label) pairs to fit on, and others to score.

        Raises:
            ValueError: If there are fewer than two classes or nothing to score.
        """
        self.labels = sorted({label for _, label in examples})
        if len(self.labels) < 2 or not held_out:
            raise ValueError("a probe needs examples of two classes or more, and some to score")
        self.texts = list(dict.fromkeys(text for text, _ in (*examples, *held_out)))
        place = {text: i for i, text in enumerate(self.texts)}
        number = {label: i for i, label in enumerate(self.labels)}
        self._fit_on = np.array([place[text] for text, _ in examples])
        self._classes = np.eye(len(self.labels))[[number[label] for _, label in examples]]
        self._scored = np.array([place[text] for text, _ in held_out])
        # A class that no example has is never told.
        self._truth = np.array([number.get(label, -1) for _, label in held_out])

    def score(self, vectors: FloatArray) -> Measured:
        """Return the accuracy on the held-out texts and its standard error."""
        x = vectors[self._fit_on]
        mean, aim = x.mean(axis=0), self._classes.mean(axis=0)
        x = x - mean
        gram = x.T @ x + _PENALTY * np.eye(x.shape[1])
        weight = np.linalg.solve(gram, x.T @ (self._classes - aim))
        told: NDArray[np.intp] = ((vectors[self._scored] - mean) @ weight + aim).argmax(axis=1)
        return share_of(told == self._truth)


class ClassesQuality:
    """Share of the items whose class is the right one."""

    def __init__(self, texts: Sequence[Item], truth: Sequence[int]) -> None:
        """Take the position of each item's class; ValueError if there is no item."""
        if not texts:
            raise ValueError("classes need one item or more")
        self.texts = texts
        self._truth = np.array(truth)

    def score(self, vectors: FloatArray) -> Measured:
        """Return the share for logits, shape [items, classes], and its standard error."""
        return share_of(vectors.argmax(axis=1) == self._truth)


class ProbabilityAgreement:
    """How near the probabilities of classes are to the whole model's.

    Per item, 1 less the total variation distance; the score is the mean. Unlike the share of equal
    classes it also moves where no class changes, so few items tell cuts apart.
    """

    def __init__(self, texts: Sequence[Item], whole: FloatArray) -> None:
        """Take the whole model's logits, shape [items, classes]."""
        self.texts = texts
        self._whole = softmax(whole, axis=1)

    def score(self, vectors: FloatArray) -> Measured:
        """Return the mean for logits, shape [items, classes], and its standard error."""
        return mean_of(1 - np.abs(softmax(vectors, axis=1) - self._whole).sum(axis=1) / 2)


class RankScoreQuality:
    """Spearman's rank correlation of a model's scores with people's ratings."""

    def __init__(self, texts: Sequence[Item], ratings: Sequence[float]) -> None:
        """Take pairs and their ratings."""
        self.texts = texts
        self._ratings = np.array(ratings)

    def score(self, vectors: FloatArray) -> Measured:
        """Return the correlation for scores, shape [pairs], and its standard error."""
        return rank_correlation(vectors, self._ratings)


class FidelityQuality:
    """Part of the spread of the whole model's scores that others explain as they are."""

    def __init__(self, texts: Sequence[Item], whole: FloatArray) -> None:
        """Take the whole model's scores, shape [items]."""
        self.texts = texts
        self._whole = whole
        self._spread = float(((whole - whole.mean()) ** 2).sum())

    def score(self, vectors: FloatArray) -> Measured:
        """Return the part, 0 to 1; no standard error is known."""
        lost = float(((vectors - self._whole) ** 2).sum())
        value = float(np.clip(1 - lost / max(self._spread, _TINY), 0, 1))
        return Measured(value, len(self._whole), 0.0)


def agreement(kind: Kind, texts: Sequence[Item], whole: FloatArray) -> Evaluation:
    """Return what compares answers of a kind with the whole model's."""
    if kind == "score":
        return FidelityQuality(texts, whole)
    if kind == "classes":
        return ProbabilityAgreement(texts, whole)
    return AgreementQuality(texts, whole)

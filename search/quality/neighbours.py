"""Measure vectors by whether a text's nearest neighbours have its label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.quality.embeddings import Measured, share_of
from search.quality.table import FloatArray

_NEIGHBOURS = 5
_MOST_AT_ONCE = 512  # rows of similarities held at once


class NeighboursQuality:
    """Accuracy of the label that the five nearest other texts name most, the nearest first.

    Votes are weighted by cosine, so that a tie goes to what is nearer.
    """

    def __init__(self, examples: Sequence[tuple[str, str]]) -> None:
        """Take (text, label) pairs, each text once; ValueError for under two labels."""
        labels = sorted({label for _, label in examples})
        if len(labels) < 2 or len(examples) <= _NEIGHBOURS:
            raise ValueError(
                f"{len(examples)} texts of {len(labels)} labels: neighbours need {_NEIGHBOURS + 1} "
                "texts and two labels"
            )
        self.texts = [text for text, _ in examples]
        number = {label: i for i, label in enumerate(labels)}
        self._truth = np.array([number[label] for _, label in examples])
        self._count = len(labels)

    def score(self, vectors: FloatArray) -> Measured:
        """Return the share of texts whose label is named, and its standard error."""
        return share_of(self.each(vectors))

    def each(self, vectors: FloatArray) -> NDArray[np.bool_]:
        """Return whether each text's label is named, shape [texts]."""
        right = np.zeros(len(vectors), dtype=np.bool_)
        for first in range(0, len(vectors), _MOST_AT_ONCE):
            part = vectors[first : first + _MOST_AT_ONCE]
            near = part @ vectors.T
            near[np.arange(len(part)), first + np.arange(len(part))] = -np.inf
            found = np.argpartition(-near, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
            votes = np.zeros((len(part), self._count))
            weights = 1 + np.take_along_axis(near, found, axis=1)
            np.add.at(votes, (np.arange(len(part))[:, None], self._truth[found]), weights)
            own = slice(first, first + len(part))
            right[own] = votes.argmax(axis=1) == self._truth[own]
        return right

"""Fit the static exit in closed form: a vector per token whose sum is what the whole model gives.

A row is a bag of tokens, weighted so that frequent ones count less, of length 1. The table is found
by ridge regression from bags to the whole model's unit vectors. It is a correction to a *prior*, so
a token that the texts have seldom or never keeps the prior's vector: an earlier table, or the
encoder's own token vectors, mapped to the space of the answers.

Source: Hestenes and Stiefel 1952, Methods of Conjugate Gradients for Solving Linear Systems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.elasticize.sparse_rows import Floats, SparseRows, counted
from models.nn.static import Static

_COMMON = 2000.0  # texts of which a token that all have counts as one of sqrt(2001) of a rare one
_ITERATIONS = 40
_RIDGE = 1.0  # of the correction: about how many texts the prior's vector of a token is worth
_PRIOR_RIDGE = 1e-3  # of the map from token vectors, over the mean of the diagonal
_TINY = 1e-12


class Fitted(NamedTuple):
    """A static exit's values.

    Attributes:
        table: Shape [tokens, width].
        weights: Shape [tokens].
    """

    table: Floats
    weights: Floats

    @property
    def folded(self) -> Floats:
        """Each token's vector times its weight, shape [tokens, width]."""
        found: Floats = self.table * self.weights[:, None]
        return found


class Bags:
    """Token counts of texts.

    Attributes:
        counts: Shape [texts, tokens].
    """

    def __init__(self, rows: Sequence[Tensor], vocab_size: int) -> None:
        """Count the ids of each text, int64, shape [length]."""
        self.counts = counted([row.numpy() for row in rows], vocab_size)

    def weights(self) -> Floats:
        """Return 1 / sqrt(1 + 2000 df / n) of each token: the share of texts that have it."""
        texts, tokens = self.counts.shape
        having = np.bincount(self.counts.columns, minlength=tokens)
        found: Floats = (1 / np.sqrt(1 + _COMMON * having / texts)).astype(np.float32)
        return found

    def scaled(self, weights: Floats) -> SparseRows:
        """Return the weighted bags at length 1, shape [texts, tokens]."""
        return self.counts.scaled(weights)


def mapped_tokens(bags: SparseRows, tokens: Floats, vectors: Floats) -> Floats:
    """Return token vectors mapped to the space of the answers by ridge regression.

    Args:
        bags: What `Bags.scaled` gives.
        tokens: The encoder's own, shape [tokens, hidden].
        vectors: The whole model's of the texts, shape [texts, width].

    Returns:
        Shape [tokens, width].
    """
    read = np.asarray(bags @ tokens, dtype=np.float64)
    gram = read.T @ read
    penalty = _PRIOR_RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    found: Floats = (tokens @ np.linalg.solve(gram + penalty, read.T @ vectors)).astype(np.float32)
    return found


def corrected(
    bags: SparseRows,
    vectors: Floats,
    prior: Floats,
    ridge: float = _RIDGE,
    report: Callable[[int, int], bool] = lambda done, of: True,
) -> Floats:
    """Return a table near a prior whose sums are near the whole model's vectors.

    Args:
        bags: What `Bags.scaled` gives.
        vectors: The whole model's of the texts, shape [texts, width].
        prior: Shape [tokens, width].
        ridge: Of the difference to the prior.
        report: Told after each iteration, and how many there may be; False ends with what there is.
    """
    turned = bags.T
    step = np.zeros_like(prior)
    left = turned @ (vectors - bags @ prior)
    direction, size = left.copy(), (left**2).sum(axis=0)
    for done in range(_ITERATIONS):
        image = turned @ (bags @ direction) + ridge * direction
        part = size / np.maximum((direction * image).sum(axis=0), _TINY)
        step += part * direction
        left -= part * image
        before, size = size, (left**2).sum(axis=0)
        direction = left + direction * (size / np.maximum(before, _TINY))
        if not report(done + 1, _ITERATIONS):
            break
    found: Floats = prior + step
    return found


def fit(
    bags: Bags,
    vectors: Floats,
    tokens: Floats,
    prior: Fitted | None = None,
    report: Callable[[int, int], bool] = lambda done, of: True,
) -> Fitted:
    """Fit a static exit.

    Args:
        bags: Of the texts.
        vectors: The whole model's unit vectors of the texts, shape [texts, width].
        tokens: The encoder's own vector of each token, shape [tokens, hidden].
        prior: An earlier table; None to begin with the mapped vectors of the tokens.
        report: As in `corrected`.
    """
    weights = bags.weights()
    scaled = bags.scaled(weights)
    start = (
        mapped_tokens(scaled, tokens, vectors)
        if prior is None
        else prior_of(scaled, prior.folded / weights[:, None], vectors)
    )
    table = corrected(scaled, vectors, start, report=report)
    return Fitted(table, weights)


def prior_of(bags: SparseRows, table: Floats, vectors: Floats) -> Floats:
    """Return a table at the length at which its sums are nearest to the vectors."""
    found: Floats = (length_of(bags, table, vectors) * table).astype(np.float32)
    return found


def length_of(bags: SparseRows, table: Floats, vectors: Floats) -> float:
    """Return the factor of a table with which its sums are nearest to the vectors.

    Sums become unit vectors, so that an earlier fit leaves their length open.
    """
    sums = bags @ table
    return float((sums * vectors).sum() / max(_TINY, float((sums**2).sum())))


def put(fitted: Fitted, static: Static) -> None:
    """Write the values into a static exit.

    Vectors are stored at a length of about 1 and the scale in the weights, so that neither leaves
    the range of float16.
    """
    lengths = np.linalg.norm(fitted.table, axis=1)
    scale = float(np.median(lengths[lengths > 0])) if (lengths > 0).any() else 1.0
    with torch.no_grad():
        static.table.copy_(torch.from_numpy(fitted.table / scale))
        static.weights.copy_(torch.from_numpy(fitted.weights))


def values_of(static: Static) -> Fitted:
    """Return the values of a static exit."""
    return Fitted(static.table.numpy(force=True), static.weights.numpy(force=True))

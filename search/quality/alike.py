"""How far the answers of a subnet agree with those of the whole model, without anybody's labels.

The same numbers are taken where a table is measured and where traffic is audited, so that what is
seen can be compared with what is expected. The whole model is the largest subnet whose answers have
the same size: a client that wants shorter vectors has said so, and is not owed longer ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.tasks import Kind
from search.quality.cells import FloatArray

_TINY = 1e-12
LEAST_LISTED = 3  # answers of a list whose order can be compared


def whole_of(space: Any, subnet: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices of the largest subnet for the same inputs, with answers of the same size.

    Args:
        space: Of the model.
        subnet: Of it; axes of single tasks may be missing.
    """
    return {
        axis.name: subnet[axis.name] if axis.kind in ("output", "given") else axis.values[-1]
        for axis in space.axes
        if axis.name in subnet
    }


def agreement(kind: Kind, found: FloatArray, whole: FloatArray) -> FloatArray | None:
    """Compare answers.

    Args:
        kind: Of the task.
        found: Of a subnet, one row an item: vectors, logits of classes, or scores, shape [items].
        whole: Of the whole model.

    Returns:
        Per item the cosine, 0 where it is below, or whether the class is the same. Of scores one
        number, Spearman's rank correlation, 0 where it is below; nothing of fewer than three or of
        scores that are all equal. None for maps, which are not compared.
    """
    if kind == "embedding":
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(whole, axis=1)
        cosines: FloatArray = (found * whole).sum(axis=1) / np.maximum(lengths, _TINY)
        return cosines.clip(0.0, 1.0)
    if kind == "classes":
        is_same: FloatArray = (found.argmax(axis=1) == whole.argmax(axis=1)).astype(np.float64)
        return is_same
    if kind == "score":
        return _rank_correlation(found.ravel(), whole.ravel())
    return None


def _rank_correlation(found: FloatArray, whole: FloatArray) -> FloatArray:
    """Return one number, or none; equal scores share the mean of their ranks."""
    if len(found) < LEAST_LISTED:
        return np.empty(0)
    one, other = (_ranks(scores) for scores in (found, whole))
    spread = np.sqrt((one**2).sum() * (other**2).sum())
    return np.array([max(0.0, float((one * other).sum() / spread))]) if spread else np.empty(0)


def _ranks(scores: FloatArray) -> FloatArray:
    """Return ranks less their mean."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[place]
    ranks -= ranks.mean()
    return ranks

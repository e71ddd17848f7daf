"""What a set of answers is worth: area dominated and rank correlation."""

from __future__ import annotations

import numpy as np

from search.quality.table import FloatArray


def hypervolume(points: list[tuple[float, float]], reference: float) -> float:
    """Return the area that the points dominate above (reference, reference)."""
    area, best = 0.0, reference
    for x, y in sorted(points, reverse=True):
        if y > best and x > reference:
            area += (x - reference) * (y - best)
            best = y
    return area


def spearman(x: list[float], y: list[float]) -> float:
    """Return the rank correlation; tied values share their mean rank."""

    def ranks(values: list[float]) -> FloatArray:
        array = np.asarray(values)
        below = (array[None, :] < array[:, None]).sum(axis=1)
        equal = (array[None, :] == array[:, None]).sum(axis=1)
        ranked: FloatArray = below + (equal - 1) / 2
        return ranked

    a, b = ranks(x), ranks(y)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])

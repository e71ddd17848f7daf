"""What a set of answers is worth: volume dominated and rank correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.quality.table import FloatArray


def hypervolume(points: Sequence[tuple[float, ...]], reference: float) -> float:
    """Return the volume that the points dominate above the same number in each dimension."""
    above = {point for point in points if min(point) > reference}
    if not above:
        return 0.0
    kept = sorted(above, key=lambda point: -point[-1])
    if len(kept[0]) == 1:
        return kept[0][0] - reference
    volume = 0.0
    for i, (*_, height) in enumerate(kept, 1):
        lower = kept[i][-1] if i < len(kept) else reference
        if height > lower:
            volume += (height - lower) * hypervolume([one[:-1] for one in kept[:i]], reference)
    return volume


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

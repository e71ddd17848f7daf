"""How far a retention may be off: the error of a ratio of two scores of the same inputs.

Both scores share the luck of the inputs, the more so the more the answers agree. For a score s with
error e, the largest subnet's s0 with e0, and r = s / s0, the variance of r is

    (e^2 + r^2 e0^2 - 2 a r e e0) / s0^2

by the delta method, with the agreement a in place of the correlation of the two scores. Where no
agreement is known a cell is taken to agree as far as it retains.

Source: Cochran 1977, Sampling Techniques, section 6.3, for the variance of a ratio.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from search.quality.table import Table

_TINY = 1e-9


def with_errors(table: Table) -> Table:
    """Return a table with the standard errors of its retentions."""
    full, cells = table.full_rows, {}
    for task, own in table.cells.items():
        kept, known = table.retention(task), own.known_agreement
        alike = np.where(np.isnan(known), kept, known).clip(0.0, 1.0)
        score, stderr = own.value[full, -1][:, None], own.stderr[full, -1][:, None]
        top, bottom, least = own.stderr, stderr, score
        if own.lower_is_better:  # then it is the largest subnet's error over this one's
            top, bottom, least = stderr, own.stderr, own.value
        spread = top**2 + (kept * bottom) ** 2 - 2 * alike * kept * top * bottom
        error = np.sqrt(spread.clip(0, None)) / np.maximum(least, _TINY)
        error[np.unique(full), -1] = 0.0
        cells[task] = replace(own, error=error)
    return replace(table, cells=cells)

"""How far a retention may be off on inputs of another data set than those it was measured on.

A cut model that keeps .95 of one data set keeps .97 of another and .92 of a third: the error of
sampling within one set says nothing of that. Where tasks are measured on several sets, the spread
among these is what a new set is expected to add. It grows with what is lost: the whole model keeps
everything of any set. So one number serves a model, pooled over its tasks and subnets,

    c^2 = sum of (spread among sets - error within them) / sum of (1 - retention)^2,

and a subnet's error is sqrt(error^2 + c^2 (1 + 1 / sets) (1 - retention)^2): 1 for the set to come
and 1 / sets for the mean of those that were measured.

Source: the prediction interval of random-effects meta-analysis (Higgins, Thompson, Spiegelhalter
2009, J. R. Stat. Soc. A 172(1), section 3), with the moment estimate of DerSimonian and Laird 1986.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from search.quality.cells import FloatArray
from search.quality.embeddings import Measured
from search.quality.table import Table

_TINY = 1e-12


def mean_over(sets: Sequence[Sequence[Measured]]) -> list[Measured]:
    """Return the mean over data sets of each subnet's scores; every set counts the same.

    Args:
        sets: Per set, the score of each subnet.
    """
    found = []
    for own in zip(*sets, strict=True):
        value, stderr = np.mean([m.value for m in own]), np.sqrt(sum(m.stderr**2 for m in own))
        found.append(Measured(float(value), sum(m.n for m in own), float(stderr / len(own))))
    return found


def with_other_sets(table: Table, scores: Mapping[str, FloatArray]) -> Table:
    """Return a table whose errors hold for data sets that it was not measured on.

    Where no task has several sets, nothing is known of others and errors stay those of sampling.

    Args:
        table: Of the mean over sets (`mean_over`), with errors of sampling; one column a task.
        scores: Per task, what was measured on each set, shape [sets, rows]; more is better.
    """
    kept = {task: own / own[:, table.full_rows] for task, own in scores.items()}
    among = lost = 0.0
    for task, own in kept.items():
        if (free := len(own) - 1) > 0:
            within = len(own) * table.cells[task].known_error[:, 0] ** 2
            among += free * float((own.var(axis=0, ddof=1) - within).sum())
            lost += free * float(((1 - own.mean(axis=0)) ** 2).sum())
    share = max(0.0, among) / max(lost, _TINY)
    cells = {}
    for task, cell in table.cells.items():
        more = share * (1 + 1 / len(kept[task])) * (1 - table.retention(task)) ** 2
        cells[task] = replace(cell, error=np.sqrt(cell.known_error**2 + more))
    return replace(table, cells=cells)

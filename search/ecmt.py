"""The rule of the ECMT paper: decoders by preference, then the best encoder that still fits.

"Provide a larger computational budget to the higher preferred task decoder, while searching a
shared encoder configuration that enhances the overall performance." The exact search of
`search.find` is never worse; the rule is kept to compare with, and because its decoders follow the
preference by construction.

Source: Aich et al. 2023, Efficient Controllable Multi-Task Architectures, arXiv 2308.11744,
abstract. How the decoders' budget is divided is not public; what follows is ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from search.budget import Budget, InfeasibleBudgetError
from search.find import Finder, Request, Selection
from search.knapsack.solve import Solution
from search.knapsack.view import View
from search.lengths import IntArray
from search.quality.table import FloatArray

SHARES = 64


def find_by_rule(
    finder: Finder,
    tasks: Collection[str] | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
) -> Selection:
    """Return the rule's subnet; arguments and errors as for `search.find.Finder.find`.

    Raises:
        ValueError: If the budget has a ``min_quality``, for which there is no rule.
    """
    budget = budget or Budget()
    if budget.min_quality is not None:
        raise ValueError("the ECMT rule has no min_quality")
    request = finder.request(tasks, preferences)
    ceiling, _ = budget.max_macs(request.largest_macs)
    view = finder.by_macs
    macs = view.priced.own[..., request.tasks]
    # Decoders cost the same in many rows, which then divide any budget alike.
    costs, kind = np.unique(macs, axis=0, return_inverse=True)
    best: Solution | None = None
    # The decoders' budgets do not depend on the ceiling, so that a larger one only adds choices.
    for share in np.linspace(0, 1, SHARES + 1):
        columns = decoder_columns(costs, request.weights, float(share))[kind]
        found = _best_row(view, request, columns, ceiling)
        if found is not None and (best is None or found.gain > best.gain):
            best = found
    if best is None:
        # Share 0 holds the cheapest subnet of all, so the exact search finds none either.
        finder.find(tasks, preferences, budget)
        raise InfeasibleBudgetError("no subnet is cheap enough", "macs", 0.0)
    return finder.selection(request, best)


def _best_row(view: View, request: Request, columns: IntArray, ceiling: float) -> Solution | None:
    """Return the best row that fits with its decoders at the given columns, [rows, tasks]."""
    macs = view.priced.own[..., request.tasks]
    rows, each = np.arange(len(macs))[:, None], np.arange(len(request.tasks))
    total = view.options(request).base + macs[rows, columns, each].sum(axis=1)
    retention = view.grid.retention[..., request.tasks]
    quality = retention[rows, columns, each] @ request.weights
    quality[total > ceiling] = -np.inf
    row = int(quality.argmax())
    if quality[row] == -np.inf:
        return None
    return Solution(row, columns[row], float(quality[row]), np.inf)


def decoder_columns(macs: FloatArray | IntArray, weights: FloatArray, share: float) -> IntArray:
    """Divide the decoders' budget by preference and take the widest column each can pay.

    Args:
        macs: Cost of each decoder, shape [rows, columns, tasks], cheapest column first.
        weights: Preferences, shape [tasks].
        share: Part of the cost of all full decoders, 0..1.

    Returns:
        Column per task, shape [rows, tasks]. A task never has a lower one than a task with a
        smaller weight, nor another than one with the same weight.
    """
    full = macs[:, -1].astype(np.float64)
    money = share * full.sum(axis=1, keepdims=True)
    given = np.zeros_like(full)
    # What a full decoder cannot use goes to the others, until nothing is left or all are full.
    for _ in range(len(weights)):
        open_weights = np.where(given < full, weights, 0.0)
        total = open_weights.sum(axis=1, keepdims=True)
        left = money - given.sum(axis=1, keepdims=True)
        if not ((total > 0) & (left > 0)).any():
            break
        part = np.divide(open_weights, total, out=np.zeros_like(full), where=total > 0)
        given = np.minimum(full, given + part * np.maximum(left, 0.0))
    affordable = macs <= given[:, None, :] * (1 + 1e-12)
    columns: IntArray = np.where(affordable, np.arange(macs.shape[1])[None, :, None], 0).max(axis=1)
    for weight in np.unique(weights):
        at_least = weights >= weight
        columns[:, weights == weight] = columns[:, at_least].min(axis=1, keepdims=True)
    return columns

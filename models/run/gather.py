"""Rows of values: some of them, in any order, and several values as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.nn.ragged import Ragged, Value


def gathered(value: Value, rows: Sequence[int], wanted: Sequence[int]) -> Value:
    """Return some rows of a value; a view where they lie side by side or are all the same one.

    Args:
        value: Its rows are those of ``rows``, each once.
        rows: Their numbers.
        wanted: Numbers, in the order needed; any number of times each.
    """
    if rows is wanted or rows == wanted:
        return value
    place = {row: i for i, row in enumerate(rows)}
    chosen = [place[row] for row in wanted]
    start, stop = chosen[0], chosen[-1] + 1
    if chosen == list(range(start, stop)):
        return value[start:stop]
    if isinstance(value, Ragged):
        return value.select(chosen)
    if len(set(chosen)) == 1:
        return value[start : start + 1].expand(len(chosen), *value.shape[1:])
    return value[chosen]


def joined(value: Value | None, known: Sequence[Value]) -> Value:
    """Return the rows of a value and single ones, as one batch.

    Args:
        value: Computed rows; None if there are none.
        known: Tensors without a batch dimension, or packed values of one row; at least one.
    """
    if isinstance(known[0], Ragged):
        packed = [one for one in (value, *known) if isinstance(one, Ragged)]
        return Ragged.join(packed)
    rows = torch.stack([one for one in known if isinstance(one, Tensor)])
    return rows if value is None else torch.cat((value, rows))  # type: ignore[arg-type]

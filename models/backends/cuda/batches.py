"""Batches of the few sizes that are recorded: filled up, and cut to what was asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from models.nn.ragged import Layout, Ragged, Value

ROWS = (1, 2, 4, 8, 16, 32)


def rows_for(inputs: Sequence[Value]) -> int | None:
    """Return the rows that a batch is filled up to; None if it cannot be recorded."""
    if any(isinstance(value, Ragged) and not value.layout.is_uniform for value in inputs):
        return None
    rows = len(inputs[0])
    return ROWS[bisect_left(ROWS, rows)] if rows <= ROWS[-1] else None


def fixed_of(value: Value) -> Hashable:
    """Return what a recording fixes of a value, beside the number of rows."""
    content = content_of(value)
    longest = value.layout.longest if isinstance(value, Ragged) else 0
    return longest, tuple(content.shape[1:]), content.dtype


def content_of(value: Value) -> Tensor:
    """Return the rows, or the tokens of all rows."""
    return value.values if isinstance(value, Ragged) else value


def filled(inputs: Sequence[Value], rows: int) -> list[Value]:
    """Return values of so many rows, at addresses of their own; the added ones are zeros."""
    layouts: dict[Layout, Layout] = {}
    found: list[Value] = []
    for value in inputs:
        content = content_of(value)
        per_row = len(content) // len(value)
        own = content.new_zeros((rows * per_row, *content.shape[1:]))
        if content.ndim == 4:
            own = own.contiguous(memory_format=torch.channels_last)
        own[: len(content)] = content
        if isinstance(value, Ragged):
            old = value.layout
            if old not in layouts:
                layouts[old] = Layout([old.longest] * rows, old.device)
            found.append(Ragged(own, layouts[old]))
        else:
            found.append(own)
    return found


def source_of(output: Value, inputs: Sequence[Value]) -> int | None:
    """Return the position of an input with a value's layout; None if the value is not packed.

    Raises:
        RuntimeError: If the layout is one of its own: that of another batch would not be known.
    """
    if not isinstance(output, Ragged):
        return None
    for position, value in enumerate(inputs):
        if isinstance(value, Ragged) and value.layout is output.layout:
            return position
    raise RuntimeError("the result has a layout of its own")


def taken(content: Tensor, source: int | None, inputs: Sequence[Value]) -> Value:
    """Return the leading rows, as many as a batch has; a view.

    Args:
        content: Of the rows, and of others after them.
        source: Of what they are packed as, among the inputs; None: they are not packed.
        inputs: Of the batch.
    """
    if source is None:
        return content[: len(inputs[0])]
    packed = inputs[source]
    assert isinstance(packed, Ragged)
    return packed.replace(content[: len(packed.values)])

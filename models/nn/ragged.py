"""Batches of sequences of different length, packed end to end: no row is ever padded.

Linear layers and norms run on the packed tokens. Only attention needs rows of equal length; it
pads its queries, keys and values for the one call, and not at all where the lengths agree.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


class Layout:
    """Where each row of a packed batch lies. Immutable; shared by all values of one batch."""

    def __init__(
        self, lengths: Sequence[int], device: torch.device, origin: Hashable | None = None
    ) -> None:
        """Index the rows.

        Args:
            lengths: Tokens per row, each at least 1.
            device: Where the packed values are.
            origin: Says what the tokens are of, an input for example: rows of one item and one
                origin have the same tokens. None for tokens unlike those of all other layouts.

        Raises:
            ValueError: If there is no row or one is empty.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError(f"lengths={list(lengths)}: one row or more, none of them empty")
        self.lengths = tuple(lengths)
        self.device = device
        self.origin: Hashable = object() if origin is None else origin
        self.is_uniform = len(set(self.lengths)) == 1
        self.longest = max(self.lengths)

    @cached_property
    def _masks(self) -> dict[tuple[bool, int | None], Tensor | None]:
        return {}

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], Layout]:
        return {}

    def part(self, rows: Sequence[int]) -> Layout:
        """Return the layout of some rows: one object for all values that are narrowed alike."""
        key = tuple(rows)
        if key not in self._parts:
            lengths = [self.lengths[row] for row in key]
            self._parts[key] = Layout(lengths, self.device, self.origin)
        return self._parts[key]

    @cached_property
    def counts(self) -> Tensor:
        """Tokens per row, int64, shape [rows]."""
        return self.placed(np.array(self.lengths))

    @cached_property
    def starts(self) -> Tensor:
        """First token of each row, int64, shape [rows]."""
        return self.placed(np.cumsum(self.lengths) - self.lengths)

    @cached_property
    def rows(self) -> Tensor:
        """Row of each token, int64, shape [tokens]."""
        return self.placed(np.repeat(np.arange(len(self.lengths)), self.lengths))

    @cached_property
    def positions(self) -> Tensor:
        """Position of each token in its row, int64, shape [tokens]."""
        return self.placed(np.concatenate([np.arange(length) for length in self.lengths]))

    @cached_property
    def present(self) -> Tensor:
        """Which cells of the padded batch hold a token, bool, shape [rows, longest]."""
        return self.placed(np.arange(self.longest) < np.array(self.lengths)[:, None])

    def placed(self, values: NDArray[Any]) -> Tensor:
        """Return an array on the layout's device.

        What is derived from lengths is, with NumPy: each call of torch would offer the interpreter
        to other threads, and in a server wait to get it back.
        """
        return torch.from_numpy(values).to(self.device)

    @property
    def blocks(self) -> tuple[tuple[slice, Layout], ...]:
        """Runs of neighbouring rows of one length: their tokens, and their layout.

        Attention takes them one after the other, and neither pads nor masks. All rows are one block
        where calls cost more than padding: on a device, and where gradients are taken.
        """
        if self.is_one_block:
            return ((slice(None), self),)  # not kept: a reference cycle would hold the masks
        return self._runs

    @property
    def is_one_block(self) -> bool:
        """Whether attention takes all rows in one call."""
        return self.device.type != "cpu" or torch.is_grad_enabled()

    @cached_property
    def _runs(self) -> tuple[tuple[slice, Layout], ...]:
        runs = [(length, len(list(rows))) for length, rows in groupby(self.lengths)]
        found, first = [], 0
        for length, rows in runs:
            tokens = slice(first, first + rows * length)
            found.append((tokens, Layout([length] * rows, self.device)))
            first = tokens.stop
        return tuple(found)

    def pad(self, values: Tensor) -> Tensor:
        """Spread [tokens, ...] over [rows, longest, ...], zeros after the end of a row."""
        shape = (len(self.lengths), self.longest, *values.shape[1:])
        if self.is_uniform:
            return values.view(shape)
        padded = values.new_zeros(shape)
        padded[self.rows, self.positions] = values
        return padded

    def unpad(self, padded: Tensor) -> Tensor:
        """Pack [rows, longest, ...] into [tokens, ...]; undoes `pad`."""
        if self.is_uniform:
            return padded.reshape(-1, *padded.shape[2:])
        return padded[self.rows, self.positions]

    def mask(self, causal: bool = False, window: int | None = None) -> Tensor | None:
        """Return which keys a query may attend to, or None where it is all of them.

        Args:
            causal: No key after the query.
            window: Keys at most this many positions away; None for any distance.

        Returns:
            bool, broadcastable to [rows, 1, longest queries, longest keys].
        """
        if window is not None and window >= self.longest - 1:
            window = None
        key = (causal, window)
        if key not in self._masks:
            self._masks[key] = self._mask(causal, window)
        return self._masks[key]

    def _mask(self, causal: bool, window: int | None) -> Tensor | None:
        place = torch.arange(self.longest, device=self.device)
        mask = None
        if not self.is_uniform:
            mask = (place[None, :] < self.counts[:, None])[:, None, None, :]
        distance = place[:, None] - place[None, :]
        if window is not None:
            near = distance.abs() <= window
            # A padded query sees at least itself: a row without keys would give NaN, which
            # reaches real gradients.
            mask = near if mask is None else (mask & near) | (distance == 0)
        if causal:
            mask = distance >= 0 if mask is None else mask & (distance >= 0)
        return mask

    def mean(self, values: Tensor) -> Tensor:
        """Average each row: [tokens, width] to [rows, width]."""
        if self.is_uniform:
            return self.pad(values).mean(1)
        sums = values.new_zeros(len(self.lengths), values.shape[1])
        return sums.index_add_(0, self.rows, values) / self.counts[:, None]

    def weighted_sum(self, ids: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        """Sum each row's vectors, each times its weight, without writing them out.

        Args:
            ids: Rows of the table, int64, shape [tokens].
            table: Shape [ids, width].
            weights: Shape [ids].

        Returns:
            Shape [rows, width].
        """
        return F.embedding_bag(ids, table, self.starts, mode="sum", per_sample_weights=weights[ids])

    def first(self, values: Tensor) -> Tensor:
        """Return each row's first token: [tokens, width] to [rows, width]."""
        return values[self.starts]

    def last(self, values: Tensor) -> Tensor:
        """Return each row's last token: [tokens, width] to [rows, width]."""
        return values[self.starts + self.counts - 1]


def padded_sum(layout: Layout, ids: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    """Return what `Layout.weighted_sum` does by a product of padded rows, as graphs can.

    ONNX has no sum over parts of different length.
    """
    padded = layout.pad(ids)
    shares = torch.where(layout.present, weights[padded], 0)
    return torch.bmm(shares[:, None], table[padded])[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different length, packed.

    Attributes:
        values: Shape [tokens of all rows, ...].
        layout: Which tokens are whose.
    """

    values: Tensor
    layout: Layout

    @classmethod
    def pack(cls, rows: Sequence[Tensor]) -> Ragged:
        """Join rows of shape [length, ...]."""
        return cls(torch.cat(list(rows)), Layout([row.shape[0] for row in rows], rows[0].device))

    def __len__(self) -> int:
        return len(self.layout.lengths)

    def to(self, device: torch.device) -> Ragged:
        """Return the batch on a device."""
        if self.layout.device == device:
            return self
        layout = Layout(self.layout.lengths, device, self.layout.origin)
        return Ragged(self.values.to(device), layout)

    def replace(self, values: Tensor) -> Ragged:
        """Return other values for the same tokens."""
        return Ragged(values, self.layout)

    @classmethod
    def join(cls, batches: Sequence[Ragged]) -> Ragged:
        """Return the rows of several batches as one."""
        lengths = [length for batch in batches for length in batch.layout.lengths]
        values = torch.cat([batch.values for batch in batches])
        origins = {batch.layout.origin for batch in batches}
        return cls(values, Layout(lengths, values.device, *(origins if len(origins) == 1 else ())))

    def __getitem__(self, rows: slice) -> Ragged:
        """Return rows that lie side by side, as a view; ``rows`` has a start and a stop."""
        layout = self.layout.part(range(rows.start, rows.stop))
        first = sum(self.layout.lengths[: rows.start])
        return Ragged(self.values[first : first + sum(layout.lengths)], layout)

    def select(self, rows: Sequence[int]) -> Ragged:
        """Return some of the rows, in the order given."""
        parts = torch.split(self.values, list(self.layout.lengths))
        return Ragged(torch.cat([parts[row] for row in rows]), self.layout.part(rows))


Value: TypeAlias = Tensor | Ragged
"""A value of a batch: one row per input, or packed rows."""


def layouts_of(values: Iterable[Value]) -> list[Layout]:
    """Return the layouts of packed values, each once, by first use."""
    return list(dict.fromkeys(value.layout for value in values if isinstance(value, Ragged)))


def tokens_of(values: Iterable[Value]) -> int:
    """Return the tokens of all rows together, of each layout once; 0 where nothing is packed."""
    return sum(sum(layout.lengths) for layout in layouts_of(values))


def rows_of(batch: Value) -> Sequence[Value]:
    """Return the rows of a batch: without the batch dimension, or each packed by itself."""
    if isinstance(batch, Ragged):
        layout = batch.layout
        parts = torch.split(batch.values, list(layout.lengths))
        return [Ragged(part, Layout([len(part)], layout.device, layout.origin)) for part in parts]
    return batch.unbind()

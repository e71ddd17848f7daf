"""Padded rows with a mask, as plain ONNX files take them, in the place of packed ones."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from models.nn.ragged import Layout, padded_sum


class PaddedLayout(Layout):
    """Rows that are padded at their end: [rows, longest], one cell after the other.

    It has no ``lengths``: whatever reads them would write this batch into the graph.
    """

    def __init__(self, present: Tensor) -> None:
        """Take the cells that hold a token: bool, shape [rows, longest]."""
        self._present = present
        self.device = present.device
        self.is_uniform = False
        self.longest = present.shape[1]

    @property
    def is_one_block(self) -> bool:
        """True: the graph is for any lengths."""
        return True

    @cached_property
    def present(self) -> Tensor:
        """Which cells hold a token, bool, shape [rows, longest]."""
        return self._present

    @cached_property
    def counts(self) -> Tensor:
        """Tokens per row, int64, shape [rows]."""
        return self._present.sum(1)

    @cached_property
    def positions(self) -> Tensor:
        """Position of each cell in its row, int64, shape [rows * longest]."""
        place = torch.arange(self.longest, device=self.device)
        return place.expand(self._present.shape).flatten()

    def pad(self, values: Tensor) -> Tensor:
        """Return [cells, ...] as [rows, longest, ...]."""
        return values.view(*self._present.shape, *values.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """Undo `pad`."""
        return padded.flatten(0, 1)

    def mask(self, causal: bool = False, window: int | None = None) -> Tensor | None:
        """Return which keys a query may attend to, bool, broadcastable to its scores."""
        place = torch.arange(self.longest, device=self.device)
        distance = place[:, None] - place[None, :]
        mask = self._present[:, None, None, :]
        if window is not None:
            # A padded query sees at least itself: a row without keys would give NaN.
            mask = (mask & (distance.abs() <= window)) | (distance == 0)
        if causal:
            mask = mask & (distance >= 0)
        return mask

    def mean(self, values: Tensor) -> Tensor:
        """Average each row: [cells, width] to [rows, width]."""
        padded = torch.where(self._present[..., None], self.pad(values), 0)
        return padded.sum(1) / self.counts[:, None]

    def weighted_sum(self, ids: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        """Sum each row's vectors, each times its weight: ids of [cells] to [rows, width]."""
        return padded_sum(self, ids, table, weights)

    def first(self, values: Tensor) -> Tensor:
        """Return each row's first token: [cells, width] to [rows, width]."""
        return self.pad(values)[:, 0]

    def last(self, values: Tensor) -> Tensor:
        """Return each row's last token: [cells, width] to [rows, width]."""
        padded = self.pad(values)
        index = (self.counts - 1)[:, None, None].expand(-1, 1, padded.shape[2])
        return padded.gather(1, index)[:, 0]

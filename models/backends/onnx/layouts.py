"""The layouts of a batch as tensors: inputs of a graph that serves every batch.

Which token is whose (`models.nn.ragged.Layout`) is known before the first layer runs. So indices
and masks are computed once a batch and every graph takes those that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from models.nn.ragged import Layout, padded_sum

OfLayout: TypeAlias = Callable[[Layout], Tensor]


class LayoutInput(NamedTuple):
    """An input of a graph that follows from a layout.

    Attributes:
        number: Of the layout, by first use over the graph's arguments.
        name: Of the tensor.
        make: Computes it.
    """

    number: int
    name: str
    make: OfLayout

    @property
    def full_name(self) -> str:
        """What the graph calls it."""
        return f"layout{self.number}_{self.name}"


def _cells(layout: Layout) -> Tensor:
    """Return the token of each cell of the padded batch; after a row's end, its last one."""
    lengths = np.array(layout.lengths)
    starts = np.cumsum(lengths) - lengths
    place = np.minimum(np.arange(layout.longest), lengths[:, None] - 1)
    return layout.placed(starts[:, None] + place)


def _places(layout: Layout) -> Tensor:
    """Return the cell of each token, int64, shape [tokens]; undoes `_cells`."""
    return layout.rows * layout.longest + layout.positions


def _mask(layout: Layout, causal: bool, window: int | None) -> Tensor:
    """Return the mask in full: ONNX Runtime's attention broadcasts it over heads only."""
    shape = (len(layout.lengths), 1, layout.longest, layout.longest)
    mask = layout.mask(causal, window)
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=layout.device)
    return mask.expand(shape)


# No lambdas: graphs come from another process, and these with them.
OF_LAYOUT: dict[str, OfLayout] = {
    "counts": attrgetter("counts"),
    "starts": attrgetter("starts"),
    "rows": attrgetter("rows"),
    "positions": attrgetter("positions"),
    "present": attrgetter("present"),
    "cells": _cells,
    "places": _places,
}


_MASK = re.compile(r"mask_(causal|both)_(any|[0-9]+)")


def _mask_name(causal: bool, window: int | None) -> str:
    return f"mask_{'causal' if causal else 'both'}_{'any' if window is None else window}"


def maker(name: str) -> OfLayout:
    """Return what computes a tensor of a name that `LayoutInput` has; ValueError for others."""
    if found := _MASK.fullmatch(name):
        window = None if found[2] == "any" else int(found[2])
        return partial(_mask, causal=found[1] == "causal", window=window)
    if name not in OF_LAYOUT:
        raise ValueError(f"{name!r} is nothing of a layout")
    return OF_LAYOUT[name]


class ProbeLayout(Layout):
    """A layout that notes which masks it is asked for."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        super().__init__(lengths, device)
        self.asked: dict[str, OfLayout] = {}

    @property
    def is_one_block(self) -> bool:
        """True, as of a traced layout."""
        return True

    def mask(self, causal: bool = False, window: int | None = None) -> Tensor | None:
        """Note the question and answer it."""
        name = _mask_name(causal, window)
        self.asked[name] = maker(name)
        return super().mask(causal, window)


class TracedLayout(Layout):
    """A layout made of a graph's inputs.

    It has no ``lengths``. Whatever reads them would write this batch into the graph; it fails
    instead, and is not exported.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.device = tensors["cells"].device
        self.longest = tensors["cells"].shape[1]
        self.is_uniform = False
        for name in ("counts", "starts", "rows", "positions", "present"):
            vars(self)[name] = tensors[name]  # where the cached property would put it

    @property
    def is_one_block(self) -> bool:
        """True: the graph is for any lengths."""
        return True

    def pad(self, values: Tensor) -> Tensor:
        """Gather, and repeat a row's last token after its end where `Layout.pad` puts zeros.

        Zeros would take 3 to 6 % of a layer's time, and attention masks those cells anyway. A step
        that lets them count gives other results than torch, so its session is refused.
        """
        return values[self._tensors["cells"]]

    def unpad(self, padded: Tensor) -> Tensor:
        """Gather by one index instead of two."""
        return padded.flatten(0, 1)[self._tensors["places"]]

    def mask(self, causal: bool = False, window: int | None = None) -> Tensor | None:
        """Return the input that holds the mask."""
        return self._tensors[_mask_name(causal, window)]

    def mean(self, values: Tensor) -> Tensor:
        """Sum padded rows; `Layout.mean` scatters, which is slow in ONNX Runtime."""
        padded = torch.where(self.present[..., None], self.pad(values), 0)
        return padded.sum(1) / self.counts[:, None]

    def weighted_sum(self, ids: Tensor, table: Tensor, weights: Tensor) -> Tensor:
        """Multiply padded rows."""
        return padded_sum(self, ids, table, weights)


class LayoutTensors:
    """Tensors of layouts that are in use, for all layers and sessions of a batch."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Layout, dict[str, Tensor]] = WeakKeyDictionary()

    def get(self, layouts: Sequence[Layout], one: LayoutInput) -> Tensor:
        """Return a tensor of one of some layouts, computed the first time."""
        layout = layouts[one.number]
        tensors = self._of.setdefault(layout, {})
        if one.name not in tensors:
            tensors[one.name] = one.make(layout).contiguous()
        return tensors[one.name]

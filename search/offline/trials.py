"""Cuts of one model, measured on parts of a user's data."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from models.elasticize.refit import Maps, Refit, run_forms
from models.elasticize.streams import Stack, Streams
from models.families.pruned import LayerForm
from models.nn.ragged import Ragged
from search.quality.agreement import agreement
from search.quality.embeddings import Evaluation
from search.quality.items import Batches, Item
from search.quality.table import FloatArray

_MAX_KEPT_BYTES = 2**29  # of what the whole model's first layers give


class Trials:
    """Fits cuts on some streams and runs them on other texts."""

    def __init__(self, stack: Stack, model: Any, streams: Streams, texts: Sequence[Item]) -> None:
        """Encode the texts.

        Args:
            stack: Of the model, its heads and units ranked.
            model: Whose input encodes texts.
            streams: What cuts are fitted to.
            texts: What cuts are run on.
        """
        self.stack = stack
        self.texts = texts
        self._refit = Refit(stack.layers, streams)
        self._kind = next(iter(model.tasks.values())).kind
        self._batches = Batches(model, texts)
        with torch.no_grad():
            self._entry = [stack.enter(batch) for batch in self._batches]
        self._whole: OrderedDict[int, list[Ragged]] = OrderedDict()

    def fit(self, forms: Sequence[LayerForm]) -> tuple[Maps, ...]:
        """Return the maps of a cut."""
        return self._refit.fit(forms)

    @torch.no_grad()
    def vectors(self, forms: Sequence[LayerForm], maps: Sequence[Maps] | None = None) -> FloatArray:
        """Return a cut's vectors of the texts, shape [texts, dim].

        Args:
            forms: Of the layers.
            maps: Of the layers; None to fit them.
        """
        maps = self.fit(forms) if maps is None else maps
        start = next((i for i, form in enumerate(forms) if form.kind != "whole"), len(forms))
        part = slice(start, None)
        ends = [
            run_forms(self.stack.layers[part], forms[part], maps[part], x)
            for x in self._whole_after(start)
        ]
        rows = torch.cat([self.stack.leave(end) for end in ends])
        return self._batches.in_order(rows.double().numpy())

    def _whole_after(self, depth: int) -> list[Ragged]:
        """Return what the first layers give where nothing is left out."""
        start = max((known for known in self._whole if known <= depth), default=0)
        streams = self._whole.get(start, self._entry)
        for n in range(start, depth):
            layer = self.stack.layers[n]
            config = layer.attention.config
            streams = [layer(config.kv_heads, config.ffn, x) for x in streams]
            self._whole[n + 1] = streams
        size = sum(x.values.nbytes for x in self._entry)
        while len(self._whole) > max(1, _MAX_KEPT_BYTES // size):
            self._whole.popitem(last=False)
        return streams

    def agreement(self) -> Evaluation:
        """Return what compares answers to the texts with the whole model's."""
        whole = [LayerForm("whole")] * len(self.stack.layers)
        answers = self.vectors(whole, [()] * len(whole))
        return agreement(self._kind, self.texts, answers)

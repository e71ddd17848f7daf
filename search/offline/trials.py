"""Cuts of one model, measured on parts of a user's data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.elasticize.refit import Maps, Refit, run_forms
from models.elasticize.streams import Stack, Streams
from models.families.pruned import LayerForm
from models.inputs.text import text_input
from models.nn.ragged import Ragged
from search.quality.agreement import AgreementQuality
from search.quality.table import FloatArray

_MAX_TOKENS = 4096  # of a batch


@dataclass(frozen=True)
class Batches:
    """Texts as batches of one model's input, the shortest first.

    Attributes:
        values: The batches.
        order: Position among the texts of each row of all batches.
    """

    values: list[Ragged]
    order: list[int]

    @classmethod
    def of(cls, model: Any, texts: Sequence[str], most: int | None = None) -> Batches:
        """Encode texts; what is too long is cut at its end.

        Args:
            model: Of one input, a text.
            texts: To be encoded.
            most: Tokens after which no further text is taken; None for all texts.
        """
        (name,) = model.inputs
        encoder = text_input(model.inputs)
        rows: list[Tensor] = []
        total = 0
        for text in texts:
            row = encoder.encode(text, truncate="right")
            total += len(row)
            if rows and most is not None and total > most:
                break
            rows.append(row)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        batches: list[list[int]] = [[]]
        for i in order:
            if (len(batches[-1]) + 1) * len(rows[i]) > _MAX_TOKENS and batches[-1]:
                batches.append([])
            batches[-1].append(i)
        values = [model.inputs.collate(name, [rows[i] for i in batch]) for batch in batches]
        return cls(values, order)

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(len(batch.values) for batch in self.values)

    @property
    def length(self) -> int:
        """Tokens of a typical text: their mean, weighted by themselves."""
        lengths = np.array([n for batch in self.values for n in batch.layout.lengths])
        return round(float((lengths**2).sum() / lengths.sum()))


def vectors(
    batches: Batches, leave: Callable[[Ragged], Tensor], ends: Sequence[Ragged]
) -> FloatArray:
    """Return answers in the texts' order, shape [texts, dim].

    Args:
        batches: Of the texts.
        leave: Function of what the last layer gives to answers.
        ends: What the last layer gave, per batch.
    """
    rows = torch.cat([leave(end) for end in ends]).double().numpy()
    return rows[np.argsort(batches.order)]


class Trials:
    """Fits cuts on some streams and runs them on other texts."""

    def __init__(self, stack: Stack, model: Any, streams: Streams, texts: Sequence[str]) -> None:
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
        self._batches = Batches.of(model, texts)
        with torch.no_grad():
            self._whole = [[stack.enter(batch) for batch in self._batches.values]]

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
        return vectors(self._batches, self.stack.leave, ends)

    def _whole_after(self, depth: int) -> list[Ragged]:
        """Return what the first layers give where nothing is left out."""
        while len(self._whole) <= depth:
            layer = self.stack.layers[len(self._whole) - 1]
            config = layer.attention.config
            self._whole.append([layer(config.kv_heads, config.ffn, x) for x in self._whole[-1]])
        return self._whole[depth]

    def agreement(self) -> AgreementQuality:
        """Return what compares vectors of the texts with the whole model's."""
        whole = [LayerForm("whole")] * len(self.stack.layers)
        return AgreementQuality(self.texts, self.vectors(whole, [()] * len(whole)))

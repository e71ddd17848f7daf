"""A user's items, texts, pairs of texts or image files, as batches of a model's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.core import Shapes
from models.inputs import Inputs
from models.inputs.content import Encoded, InvalidInputError
from models.inputs.image import ImageInput
from models.inputs.text import TextInput
from models.nn.ragged import Value

Item: TypeAlias = str | tuple[str, str] | Path
"""A text, two texts that a model compares, or the file of an image."""
N = TypeVar("N", bound=np.floating[Any])
_Row: TypeAlias = dict[str, Tensor | Path]

_MAX_TOKENS = 4096  # of a batch of texts
_MAX_PIXELS = 2**20  # of a batch of images


class ItemError(ValueError):
    """An item is none that the model can take. The message names it."""


class Batches:
    """Items as batches of a model's inputs: texts by length, the shortest first; images as given.

    Texts are encoded once. Images are read whenever a batch is wanted: decoded, a thousand of them
    would not fit.

    Attributes:
        order: Position among the items of each row of all batches.
        lengths: Tokens of each row, where the model has tokens; else 1.
        shapes: Of one item, to plan for.
    """

    def __init__(self, model: Any, items: Sequence[Item], most: int | None = None) -> None:
        """Encode texts; what is too long is cut at its end.

        Args:
            model: Of a text, two texts or an image.
            items: To be run, one or more.
            most: Tokens after which no further item is taken; None for all items.

        Raises:
            ItemError: If an item is not of the kind that the model takes.
        """
        self._inputs: Inputs = model.inputs
        self._type = next(iter(self._inputs.values())).type
        rows: list[_Row] = []
        lengths: list[int] = []
        of_image = _tokens_of_image(model)
        for item in items:
            row = self._row(item)
            length = of_image if isinstance(item, Path) else _tokens_of(model, row)
            if rows and most is not None and sum(lengths) + length > most:
                break
            rows.append(row)
            lengths.append(length)
        self.order = sorted(range(len(rows)), key=lambda i: lengths[i])
        self.lengths = [lengths[i] for i in self.order]
        self._rows = [rows[i] for i in self.order]
        size, limit = self._limit()
        self._parts: list[list[int]] = [[]]
        for i, length in enumerate(self.lengths):
            own = length if size is None else size
            if (len(self._parts[-1]) + 1) * own > limit and self._parts[-1]:
                self._parts.append([])
            self._parts[-1].append(i)

    def __iter__(self) -> Iterator[dict[str, Value]]:
        """Yield the batches, by input."""
        for part in self._parts:
            yield {
                name: self._inputs.collate(name, [self._loaded(self._rows[i][name]) for i in part])
                for name in self._inputs
            }

    @property
    def shapes(self) -> Shapes:
        """Of one item."""
        return {
            name: self._inputs[name].type.shape_of(self._loaded(value))
            for name, value in self._rows[0].items()
        }

    @property
    def tokens(self) -> int:
        """Of all items."""
        return sum(self.lengths)

    @property
    def length(self) -> int:
        """Tokens of a typical item: their mean, weighted by themselves."""
        lengths = np.array(self.lengths)
        return round(float((lengths**2).sum() / lengths.sum()))

    @property
    def token_ids(self) -> list[Tensor]:
        """Of each text, in the items' order; of a model of one text."""
        (name,) = self._inputs
        found: list[Any] = [row[name] for row in self._rows]
        return [found[i] for i in np.argsort(self.order)]

    def in_order(self, rows: NDArray[N]) -> NDArray[N]:
        """Return the rows of all batches in the items' order."""
        placed: NDArray[N] = rows[np.argsort(self.order)]
        return placed

    def _row(self, item: Item) -> _Row:
        parts = item if isinstance(item, tuple) else (item,)
        if len(parts) != len(self._inputs):
            raise ItemError(f"{item!r}: the model takes the inputs {list(self._inputs)}")
        found: _Row = {}
        for (name, slot), part in zip(self._inputs.items(), parts, strict=True):
            if isinstance(part, Path) != isinstance(slot.type, ImageInput):
                raise ItemError(f"{item!r}: the model takes inputs of kind {slot.type.kind!r}")
            if isinstance(part, Path):
                found[name] = part
            else:
                assert isinstance(slot.type, TextInput)
                found[name] = slot.type.encode(part, truncate="right")
        return found

    def _loaded(self, row: Tensor | Path) -> Tensor:
        if not isinstance(row, Path):
            return row
        assert isinstance(self._type, ImageInput)
        try:
            return self._type.decode(Encoded(row.read_bytes()))
        except (InvalidInputError, OSError) as error:
            raise ItemError(f"{row}: {error}") from None

    def _limit(self) -> tuple[int | None, int]:
        """Return what an item takes of a batch, None for its tokens, and how much a batch holds."""
        if isinstance(self._type, ImageInput):
            return self._type.height * self._type.width, _MAX_PIXELS
        return None, _MAX_TOKENS


def _tokens_of(model: Any, row: _Row) -> int:
    """Return the tokens that layers see of texts."""
    shapes = {name: (len(value),) for name, value in row.items() if isinstance(value, Tensor)}
    return (
        int(model.tokens(shapes))
        if hasattr(model, "tokens")
        else sum(n for (n,) in shapes.values())
    )


def _tokens_of_image(model: Any) -> int:
    """Return the tokens of an image; 1 for a model of texts, or without tokens."""
    if hasattr(model, "tokens") and not model.inputs.has_length:
        return int(model.tokens(model.inputs.plan_shapes()))
    return 1

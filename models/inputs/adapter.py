"""Names of adapters: which of a model's small sets of weights an item is for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.core import Shape
from models.inputs.content import Content, InvalidInputError, Text, refuse

KIND = "adapter"


@dataclass(frozen=True, slots=True)
class AdapterInput:
    """One of some names; the model gets its number.

    Attributes:
        names: In the model's order.
    """

    kind: ClassVar[str] = KIND

    names: tuple[str, ...]

    @property
    def has_length(self) -> bool:
        """False."""
        return False

    def decode(self, content: Content) -> Tensor:
        """Return the number of a name, int64; InvalidInputError if there is no such adapter."""
        if not isinstance(content, Text) or not isinstance(content.content, str):
            refuse("the name of an adapter", content)
        if content.content not in self.names:
            name = content.content[:80]
            raise InvalidInputError(f"{name!r} is not known; one of {list(self.names)}")
        return torch.tensor(self.names.index(content.content))

    def decode_all(self, contents: Sequence[Content]) -> list[Tensor]:
        """Return what `decode` does of each."""
        return [self.decode(one) for one in contents]

    def shape_of(self, value: Tensor) -> Shape:
        """Return the shape of a number."""
        return ()

    def plan_shape(self, length: int | None) -> Shape:
        """Return the shape of a number; InvalidInputError for a length."""
        if length is not None:
            raise InvalidInputError(f"tokens={length}: this input has no length")
        return ()

    def bucket(self, value: Tensor) -> Hashable:
        """Return 0: adapters share batches."""
        return 0

    def size(self, value: Tensor) -> int:
        """Return 0: it is no sequence."""
        return 0

    def digest(self, value: Tensor) -> Hashable:
        """Return the name."""
        return self.names[int(value)]

    def collate(self, values: Sequence[Tensor]) -> Tensor:
        """Return numbers as a batch, shape [rows]."""
        return torch.stack(list(values))

    def example(self, length: int | None = None) -> Tensor:
        """Return the first one's number."""
        return torch.tensor(0)

    def describe(self) -> dict[str, Any]:
        """Return the names."""
        return {"kind": self.kind, "values": list(self.names)}

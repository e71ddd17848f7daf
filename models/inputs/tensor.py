"""Tensors of numbers: features, embeddings or sequences of them that clients make themselves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor

from models.core import Shape
from models.inputs.content import Array, Content, InvalidInputError, refuse
from models.inputs.digest import digest_of
from models.nn.ragged import Ragged, Value


@dataclass(frozen=True, slots=True)
class TensorInput:
    """Numbers of a fixed shape, or sequences of such.

    Attributes:
        shape: Of one input, or of one entry of a sequence.
        max_length: Most entries of a sequence; None where inputs are no sequences.
        least: No number may be below.
        most: No number may be above.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")
    kind: ClassVar[str] = "tensor"

    shape: tuple[int, ...]
    max_length: int | None = None
    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that no tensor has.

        Raises:
            ValueError: Naming the field and its value.
        """
        if any(size < 1 for size in self.shape):
            raise ValueError(f"shape={list(self.shape)} must be sizes of 1 or more")
        if self.max_length is not None and self.max_length < 3:
            raise ValueError(f"max_length={self.max_length} must be 3 or more")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least={self.least} must be at most most={self.most}")

    @property
    def has_length(self) -> bool:
        """Whether inputs are sequences."""
        return self.max_length is not None

    def decode(self, content: Content) -> Tensor:
        """Check numbers that a client has made.

        Returns:
            float32.

        Raises:
            InvalidInputError: If the shape is another, a number is not finite or out of range, or
                the content is no array.
        """
        if not isinstance(content, Array):
            refuse("numbers", content)
        with np.errstate(over="ignore"):  # what float32 cannot hold is found below
            values = content.values.astype(np.float32, copy=True)
        found, sizes = values.shape, self.shape
        if self.max_length is not None:
            if not found or not 1 <= found[0] <= self.max_length:
                raise InvalidInputError(
                    f"shape {list(found)}: the first size must be 1 to {self.max_length}"
                )
            found = found[1:]
        if found != sizes:
            raise InvalidInputError(f"shape {list(values.shape)} must end with {list(sizes)}")
        if not np.isfinite(values).all():
            raise InvalidInputError("a number is not finite")
        for bound, is_wrong, word in (
            (self.least, np.less, "at least"),
            (self.most, np.greater, "at most"),
        ):
            if bound is not None and (wrong := values[is_wrong(values, bound)]).size:
                raise InvalidInputError(f"{float(wrong[0]):g} must be {word} {bound:g}")
        return torch.from_numpy(values)

    def decode_all(self, contents: Sequence[Content]) -> list[Tensor]:
        """Return what `decode` does of each."""
        return [self.decode(one) for one in contents]

    def shape_of(self, value: Tensor) -> Shape:
        """Return the shape."""
        return tuple(value.shape)

    def plan_shape(self, length: int | None) -> Shape:
        """Return the shape, of the greatest length where none is given."""
        if self.max_length is None:
            if length is not None:
                raise InvalidInputError(f"tokens={length}: this input has no length")
            return self.shape
        if length is not None and not 1 <= length <= self.max_length:
            raise InvalidInputError(f"tokens={length} must be 1 to {self.max_length}")
        return (length or self.max_length, *self.shape)

    def bucket(self, value: Tensor) -> Hashable:
        """Return the power of two of a sequence's length, from 64 on; 0 for others."""
        return max(6, (value.shape[0] - 1).bit_length()) if self.has_length else 0

    def size(self, value: Tensor) -> int:
        """Return the length of a sequence; 0 for others."""
        return value.shape[0] if self.has_length else 0

    def digest(self, value: Tensor) -> Hashable:
        """Return a digest of the numbers."""
        return digest_of(value)

    def collate(self, values: Sequence[Tensor]) -> Value:
        """Return a batch: sequences packed, others stacked."""
        return Ragged.pack(values) if self.has_length else torch.stack(list(values))

    def example(self, length: int | None = None) -> Tensor:
        """Return numbers of the range, of a short sequence unless a length is given."""
        shape = self.shape
        if self.max_length is not None:
            shape = (length or min(8, self.max_length), *shape)
        least, most = self.least, self.most
        if least is None:
            least = 0.0 if most is None else most - 1.0
        most = least + 1.0 if most is None else most
        return torch.linspace(least, most, math.prod(shape)).view(shape)

    def describe(self) -> dict[str, Any]:
        """Return shape and range."""
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "max_length": self.max_length,
            "least": self.least,
            "most": self.most,
        }

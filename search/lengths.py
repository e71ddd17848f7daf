"""Costs as exact polynomials in the lengths of sequences.

What a step costs is a polynomial of degree two in the length of each sequence that it depends on:
three lengths fix it. It is kept by its forward differences (Newton's form), whose coefficients and
basis are whole numbers, so that nothing is rounded. With lengths first, first + 1 x spacing ... the
basis is 0 or more at every length, so that an order of all coefficients is one of all costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from models.core import Shape
from models.inputs import Inputs, InputType, InvalidInputError

IntArray = NDArray[np.int64]
# Row k takes the values at three lengths to the k-th forward difference.
_DIFFERENCES = np.array([[1, 0, 0], [-1, 1, 0], [1, -2, 1]], dtype=np.int64)
_DEGREES = 3


@dataclass(frozen=True)
class Lengths:
    """The lengths at which a model is planned, and what follows for all others.

    Attributes:
        shapes: Of each input without a length.
        types: Of each input with one.
        points: Of each input with one, up to three lengths, evenly spaced.
        longest: Likewise, the greatest.
    """

    shapes: Mapping[str, Shape]
    types: Mapping[str, InputType]
    points: Mapping[str, tuple[int, ...]]
    longest: Mapping[str, int]

    @classmethod
    def of(cls, inputs: Inputs, names: Iterable[str]) -> Lengths:
        """Return the lengths of some inputs, which are there together.

        Raises:
            ValueError: If the least lengths of an input are not evenly spaced.
        """
        whole = inputs.plan_shapes(names=names)
        longest = inputs.lengths(whole)
        types = {name: inputs[name].type for name in longest}
        return cls(
            {name: shape for name, shape in whole.items() if name not in longest},
            types,
            {name: _least(name, of, longest[name]) for name, of in types.items()},
            longest,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs that have a length."""
        return tuple(self.types)

    def planned(self) -> list[dict[str, Shape]]:
        """Return the shapes to plan for, the last input's length changing fastest."""
        return [
            self.at(dict(zip(self.points, lengths, strict=True)))
            for lengths in itertools.product(*self.points.values())
        ]

    def at(self, lengths: Mapping[str, int]) -> dict[str, Shape]:
        """Return the shapes at some lengths; InvalidInputError if one cannot be."""
        own = {name: of.plan_shape(lengths[name]) for name, of in self.types.items()}
        return {**self.shapes, **own}

    def coefficients(self, values: IntArray) -> IntArray:
        """Turn values at the shapes of `planned`, shape [..., points], to those of polynomials."""
        parts = (_DIFFERENCES[: len(own), : len(own)] for own in self.points.values())
        product = reduce(np.kron, parts, np.ones((1, 1), dtype=np.int64))
        found: IntArray = values @ product.T
        return found

    def basis(self, lengths: Mapping[str, int]) -> IntArray:
        """Return what coefficients are multiplied by at some lengths, shape [points].

        Raises:
            ValueError: If a length lies between those that an input can have.
        """
        found = [1]
        for name, points in self.points.items():
            spacing = points[1] - points[0] if len(points) > 1 else 1
            steps, rest = divmod(lengths[name] - points[0], spacing)
            if rest or steps < 0:
                raise ValueError(
                    f"{name}: length {lengths[name]} is not among {points[0]}, "
                    f"{points[0] + spacing}, ..."
                )
            own = (1, steps, steps * (steps - 1) // 2)[: len(points)]
            found = [one * term for one in found for term in own]
        return np.array(found, dtype=np.int64)


def _least(name: str, of: InputType, longest: int) -> tuple[int, ...]:
    """Return the least lengths that an input can have, at most three."""
    accepted = (length for length in range(1, longest + 1) if _is_length(of, length))
    points = tuple(itertools.islice(accepted, _DEGREES))
    if len({b - a for a, b in itertools.pairwise(points)}) > 1:
        raise ValueError(f"input {name!r}: its lengths {list(points)}, ... are not evenly spaced")
    return points


def _is_length(of: InputType, length: int) -> bool:
    try:
        of.plan_shape(length)
    except InvalidInputError:
        return False
    return True

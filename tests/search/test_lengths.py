from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from models.inputs import Inputs, InvalidInputError, Slot
from models.inputs.tensor import TensorInput
from search.lengths import IntArray, Lengths


class Spaced(TensorInput):
    """Sequences whose length is one of few."""

    def plan_shape(self, length: int | None) -> tuple[int, ...]:
        if length is not None and length not in ALLOWED:
            raise InvalidInputError(f"tokens={length}")
        return super().plan_shape(length)


ALLOWED: set[int] = set()


def inputs_of(*longest: int) -> Inputs:
    return Inputs(
        {f"x{i}": Slot(TensorInput((1,), max_length=most)) for i, most in enumerate(longest)}
    )


def coefficients_of(lengths: Lengths, cost: Callable[..., int]) -> IntArray:
    values = [cost(*(shape[0] for shape in shapes.values())) for shapes in lengths.planned()]
    return lengths.coefficients(np.array(values, dtype=np.int64))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_polynomials_are_exact_at_every_length_beyond_the_precision_of_floats(count: int) -> None:
    rng = Random(count)
    powers = list(itertools.product(range(3), repeat=count))
    factors = [rng.randrange(3 * 10**4) for _ in powers]

    def cost(*sizes: int) -> int:
        terms = (
            factor * int(np.prod([n**p for n, p in zip(sizes, own, strict=True)], dtype=object))
            for factor, own in zip(factors, powers, strict=True)
        )
        return sum(terms)

    lengths = Lengths.of(inputs_of(*[200] * count), [f"x{i}" for i in range(count)])
    found = coefficients_of(lengths, cost)
    for _ in range(50):
        sizes = [rng.randint(1, 200) for _ in range(count)]
        basis = lengths.basis({f"x{i}": n for i, n in enumerate(sizes)})
        assert (basis >= 0).all()
        assert int(found @ basis) == cost(*sizes)


def test_an_input_without_a_length_has_one_point() -> None:
    inputs = Inputs.of("x", TensorInput((4, 5)))
    lengths = Lengths.of(inputs, ["x"])
    assert lengths.planned() == [{"x": (4, 5)}]
    assert lengths.basis({}).tolist() == [1]


def test_lengths_may_begin_late_and_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs.of("x", Spaced((1,), max_length=64))
    ALLOWED.update(range(16, 65, 8))
    lengths = Lengths.of(inputs, ["x"])
    assert lengths.points == {"x": (16, 24, 32)}
    found = coefficients_of(lengths, lambda n: n * n + n // 8)
    assert int(found @ lengths.basis({"x": 56})) == 56 * 56 + 7
    with pytest.raises(ValueError, match="x: length 20 is not among 16, 24"):
        lengths.basis({"x": 20})
    ALLOWED.clear()
    ALLOWED.update((1, 2, 4, 64))
    with pytest.raises(ValueError, match=r"lengths \[1, 2, 4\], ... are not evenly spaced"):
        Lengths.of(inputs, ["x"])
    ALLOWED.clear()
    ALLOWED.update((5, 64))
    few = Lengths.of(inputs, ["x"])
    assert int(coefficients_of(few, lambda n: 3 * n) @ few.basis({"x": 64})) == 192
    ALLOWED.clear()

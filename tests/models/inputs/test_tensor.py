from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.inputs import InvalidInputError
from models.inputs.content import Array, Content, Encoded, Text
from models.inputs.tensor import TensorInput
from models.nn.ragged import Ragged

POINT = TensorInput((2, 3))
SERIES = TensorInput((2,), max_length=5, least=-1.0, most=2.0)


def test_numbers_of_any_type_become_float32_of_their_own() -> None:
    for dtype in (np.int64, np.float64, np.float32, np.uint8):
        values = np.arange(6, dtype=dtype).reshape(2, 3)
        found = POINT.decode(Array(values))
        values[:] = 0
        assert found.dtype == torch.float32
        assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_sequences_may_have_any_length_up_to_the_greatest() -> None:
    for length in (1, 5):
        values = SERIES.decode(Array(np.ones((length, 2))))
        assert SERIES.shape_of(values) == (length, 2)
        assert SERIES.size(values) == length
    assert POINT.size(torch.zeros(2, 3)) == 0


@pytest.mark.parametrize(
    ("of", "content", "message"),
    [
        (POINT, Array(np.zeros((3, 2))), r"shape \[3, 2\] must end with \[2, 3\]"),
        (POINT, Array(np.zeros((1, 2, 3))), r"shape \[1, 2, 3\] must end with \[2, 3\]"),
        (POINT, Array(np.full((2, 3), np.nan)), "a number is not finite"),
        (POINT, Array(np.full((2, 3), 1e300)), "a number is not finite"),
        (SERIES, Array(np.zeros((0, 2))), r"shape \[0, 2\]: the first size must be 1 to 5"),
        (SERIES, Array(np.zeros((6, 2))), r"shape \[6, 2\]: the first size must be 1 to 5"),
        (SERIES, Array(np.zeros((5, 3))), r"shape \[5, 3\] must end with \[2\]"),
        (SERIES, Array(np.zeros(())), r"shape \[\]: the first size must be 1 to 5"),
        (SERIES, Array(np.full((1, 2), -1.5)), "-1.5 must be at least -1"),
        (SERIES, Array(np.full((1, 2), 3)), "3 must be at most 2"),
        (POINT, Text("w0"), "this model takes numbers, not text"),
        (POINT, Encoded(b""), "this model takes numbers, not images"),
    ],
)
def test_what_is_no_input_is_refused_with_the_reason(
    of: TensorInput, content: Content, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        of.decode(content)


def test_fixed_shapes_are_stacked_and_sequences_are_packed() -> None:
    stacked = POINT.collate([torch.zeros(2, 3), torch.ones(2, 3)])
    assert isinstance(stacked, torch.Tensor)
    assert stacked.shape == (2, 2, 3)
    packed = SERIES.collate([torch.zeros(3, 2), torch.ones(1, 2)])
    assert isinstance(packed, Ragged)
    assert packed.layout.lengths == (3, 1)


def test_equal_numbers_have_equal_digests_and_others_do_not() -> None:
    one = torch.tensor([[1.0, 2.0]])
    others = [torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 2.5]])]
    assert SERIES.digest(one) == SERIES.digest(one.clone())
    assert len({SERIES.digest(value) for value in (one, *others)}) == 4


@pytest.mark.parametrize(
    ("least", "most"), [(None, None), (-3.0, None), (None, -5.0), (0.25, 0.5), (1.0, 1.0)]
)
def test_the_example_is_an_input_of_the_range(least: float | None, most: float | None) -> None:
    for max_length, lengths in ((None, [None]), (9, [None, 1, 9])):
        of = TensorInput((2,), max_length, least, most)
        for length in lengths:
            example = of.example(length)
            assert torch.equal(of.decode(Array(example.numpy())), example)
            assert of.shape_of(example) == of.plan_shape(of.size(example) or None)


def test_plans_are_for_the_greatest_length_unless_another_is_named() -> None:
    assert SERIES.plan_shape(None) == (5, 2)
    assert SERIES.plan_shape(3) == (3, 2)
    assert POINT.plan_shape(None) == (2, 3)
    for of, length in ((SERIES, 0), (SERIES, 6), (POINT, 1)):
        with pytest.raises(InvalidInputError, match=f"tokens={length}"):
            of.plan_shape(length)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": (2, 0)}, r"shape=\[2, 0\] must be sizes of 1 or more"),
        ({"shape": (2,), "max_length": 2}, "max_length=2 must be 3 or more"),
        ({"shape": (2,), "least": 2.0, "most": 1.0}, "least=2.0 must be at most most=1.0"),
    ],
)
def test_a_type_that_no_tensor_has_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TensorInput(**fields)


def test_what_a_client_must_know_is_described() -> None:
    assert SERIES.describe() == {
        "kind": "tensor", "shape": [2], "max_length": 5, "least": -1.0, "most": 2.0,
    }  # fmt: skip

from __future__ import annotations

import math
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from server.api.kserve.tensors import GivenTensor, Output, Rows, Spec
from server.errors import InvalidRequestError

tritonclient = pytest.importorskip("tritonclient.utils")

DTYPES = {"UINT8": "u1", "INT64": "<i8", "FP32": "<f4"}
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
VALUES = {
    "UINT8": st.integers(0, 255),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
}


def spec(datatype: Any, num_dimensions: int) -> Spec:
    return Spec("x", datatype, (-1,) * num_dimensions)


def rows(datatype: Any, shape: list[int], content: Any) -> Rows:
    return Rows(GivenTensor("inputs[0]", "x", datatype, shape, content), spec(datatype, len(shape)))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, NDArray[Any]]:
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(SHAPES))
    return datatype, draw(arrays(DTYPES[datatype], shape, elements=VALUES[datatype]))


@given(tensors())
def test_raw_flat_and_nested_are_the_same_tensor(tensor: tuple[str, NDArray[Any]]) -> None:
    datatype, array = tensor
    spellings = (memoryview(array.tobytes()), array.ravel().tolist(), array.tolist())
    for content in spellings:
        read = rows(datatype, list(array.shape), content)
        assert len(read) == len(array)
        for i, row in enumerate(array):
            np.testing.assert_array_equal(read.numbers(i), row)
            assert read.numbers(i).dtype == DTYPES[datatype]


@given(tensors(), st.integers(-9, 9).filter(bool))
def test_raw_bytes_too_few_or_too_many_are_refused(
    tensor: tuple[str, NDArray[Any]], change: int
) -> None:
    datatype, array = tensor
    raw = array.tobytes()
    raw = raw + bytes(change) if change > 0 else raw[:change]
    with pytest.raises(InvalidRequestError, match=rf"has {len(raw)} bytes of data; .* has "):
        rows(datatype, list(array.shape), memoryview(raw))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_bytes_are_read_as_tritons_client_writes_them(elements: list[bytes]) -> None:
    written = tritonclient.serialize_byte_tensor(np.array(elements, dtype=np.object_))
    raw = b"".join(written.item()) if written.ndim else written.item()
    for shape in ([len(elements)], [len(elements), 1]):
        read = Rows(
            GivenTensor("inputs[0]", "x", "BYTES", shape, memoryview(raw)), spec("BYTES", 1)
        )
        assert [read.element(i) for i in range(len(read))] == elements


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_tritons_client_reads_the_bytes_that_are_written(elements: list[bytes]) -> None:
    raw = Output("x", elements, (len(elements),)).raw()
    assert tritonclient.deserialize_bytes_tensor(raw).tolist() == elements


@given(
    st.lists(st.binary(max_size=9), min_size=1, max_size=4),
    st.integers(1, 5),
    st.binary(max_size=9),
)
def test_bytes_that_do_not_add_up_are_refused(
    elements: list[bytes], num_claimed: int, behind: bytes
) -> None:
    raw = Output("x", elements, (len(elements),)).raw()
    content = raw + behind + b"\0" if num_claimed == len(elements) else raw
    with pytest.raises(InvalidRequestError, match=r"elements of data|behind its last|claims"):
        rows("BYTES", [num_claimed], memoryview(content))
    for size in range(len(raw)):
        with pytest.raises(InvalidRequestError, match=r"elements of data|claims"):
            rows("BYTES", [len(elements)], memoryview(raw[:size]))


def test_a_length_of_four_gigabytes_reserves_nothing() -> None:
    raw = memoryview(struct.pack("<I", 2**32 - 1) + b"abc")
    with pytest.raises(InvalidRequestError, match="element 0 claims 4294967295 bytes, and 3 are"):
        rows("BYTES", [1], raw)


@given(st.binary(max_size=60), st.lists(st.integers(0, 2**62), min_size=1, max_size=5))
def test_any_bytes_under_any_shape_are_a_tensor_or_refused(raw: bytes, shape: list[int]) -> None:
    for datatype in ("BYTES", *DTYPES):
        try:
            read = rows(datatype, shape, memoryview(raw))
        except InvalidRequestError:
            continue
        assert math.prod(shape) <= max(1, len(raw))
        assert len(read) == shape[0]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(ANYTHING, max_size=4), st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_any_json_under_any_shape_is_a_tensor_or_refused(data: list[Any], shape: list[int]) -> None:
    for datatype in ("BYTES", *DTYPES):
        with suppress(InvalidRequestError):
            read = rows(datatype, shape, data)
            for i in range(len(read)):
                if datatype == "BYTES":
                    assert isinstance(read.element(i), str)
                else:
                    assert read.numbers(i).shape == tuple(shape[1:])


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", -1),
        ("UINT8", 256),
        ("UINT8", True),
        ("UINT8", 1.0),
        ("UINT8", "1"),
        ("INT64", 2**63),
        ("INT64", 10**400),
        ("INT64", None),
        ("FP32", 1e39),
        ("FP32", 10**400),
        ("FP32", True),
        ("FP32", "0.5"),
        ("FP32", [0.5]),
    ],
)
def test_a_number_is_never_made_of_something_else(datatype: str, value: Any) -> None:
    read = rows(datatype, [2], [1, value])
    read.numbers(0)
    with pytest.raises(InvalidRequestError, match=f"which is no {datatype}"):
        read.numbers(1)


def test_nested_lists_must_have_the_shape() -> None:
    for data in ([[1, 2], [3]], [[1, 2], 3], [[1, 2], [[3], [4]]], [[1, 2], [3, 4, 5]]):
        read = rows("INT64", [2, 2], data)
        with pytest.raises(InvalidRequestError, match=r"data\[1\] is not of shape|no INT64"):
            read.numbers(1)
    with pytest.raises(InvalidRequestError, match=r"has 1 elements of data; its shape \[2, 2\]"):
        rows("INT64", [2, 2], [[1, 2]])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([1, 2, 3], r"shape=\[1, 2, 3\] must be \[-1, 2\]"),
        ([1, 3], r"shape=\[1, 3\] must be"),
        ([0, 2], r"shape=\[0, 2\] must be"),
        ([], r"shape=\[\] must be"),
    ],
)
def test_a_shape_must_be_the_models(shape: list[int], message: str) -> None:
    given_ = GivenTensor("inputs[0]", "x", "UINT8", shape, memoryview(b"ab"))
    with pytest.raises(InvalidRequestError, match=message):
        Rows(given_, Spec("x", "UINT8", (-1, 2)))


def test_a_type_must_be_the_models() -> None:
    given_ = GivenTensor("inputs[0]", "x", "FP16", [1], memoryview(b"ab"))
    with pytest.raises(InvalidRequestError, match=r"inputs\[0\]\.datatype='FP16' must be UINT8"):
        Rows(given_, Spec("x", "UINT8", (-1,)))


def test_floats_are_written_little_endian_and_row_major() -> None:
    values = np.array([[1, 2], [3, 4]], dtype=np.float32).T
    assert Output("x", values, (2, 2)).raw() == struct.pack("<4f", 1, 3, 2, 4)

"""Tensors of the Open Inference Protocol: from each of their spellings to rows, and back.

A tensor comes as raw bytes (REST's binary extension, gRPC's ``raw_input_contents``), as a flat
list (JSON, gRPC's typed contents) or as nested lists (JSON). Only lengths are checked on arrival;
numbers are read row by row when somebody asks for them, so that a request can be refused before.

Raw bytes are little-endian and row-major. Before each element of type BYTES stands its length,
four bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidRequestError, shown

Datatype = Literal["BYTES", "UINT8", "INT64", "FP32"]
ANY = -1
MAX_INT = 2**63 - 1  # of the protocol: what gRPC can carry
_DTYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor that a model takes or gives.

    Attributes:
        name: Of the tensor.
        datatype: As the protocol names it.
        shape: ``ANY`` where every size from 1 on will do; the first is the number of inputs.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GivenTensor:
    """A tensor as it came.

    Attributes:
        field: Where in the request, for errors.
        name: Says which it is.
        datatype: What the client calls its type.
        shape: What the client says of it.
        content: Raw bytes as a memoryview, or a list.
    """

    field: str
    name: str
    datatype: str
    shape: Sequence[int]
    content: memoryview | Sequence[Any]


class Rows:
    """A tensor of the right type and size, whose rows can be read one by one."""

    def __init__(self, given: GivenTensor, spec: Spec) -> None:
        """Check type, shape and length.

        Raises:
            InvalidRequestError: Naming what is wrong and what is allowed.
        """
        _check_declared(given, spec)
        self._field = given.field
        self._datatype = spec.datatype
        self.shape = tuple(given.shape)
        self._array: NDArray[Any] | None = None
        self._listed: Sequence[Any] = ()
        self._is_nested = False
        content = given.content
        if not isinstance(content, memoryview):
            self._is_nested = bool(content) and isinstance(content[0], list)
            self._check_count(len(content), self.shape[0] if self._is_nested else self._size)
            self._listed = content
        elif spec.datatype == "BYTES":
            self._listed = self._elements(content)
        else:
            self._array = self._from_raw(content)

    def __len__(self) -> int:
        return self.shape[0]

    def numbers(self, index: int) -> NDArray[Any]:
        """Return a row of numbers, of the shape that is left without the first size.

        Raises:
            InvalidRequestError: If one is no number of the tensor's type.
        """
        if self._array is not None:
            row: NDArray[Any] = self._array[index]
            return row
        return self._checked(self._flat(index)).reshape(self.shape[1:])

    def element(self, index: int) -> bytes | str:
        """Return an element of type BYTES: bytes, or text where the tensor came in JSON.

        Raises:
            InvalidRequestError: If it is neither, or a row has not one element.
        """
        row = self._flat(index)
        if len(row) != 1:
            raise InvalidRequestError(
                f"{self._field}.data[{index}] has {len(row)} elements by its shape "
                f"{list(self.shape)}; it must have 1",
                self._field,
            )
        element = row[0]
        if not isinstance(element, bytes | str):
            raise InvalidRequestError(
                f"{self._field}.data[{index}]={shown(element)} must be text", self._field
            )
        return element

    @property
    def _size(self) -> int:
        return math.prod(self.shape)

    def _check_count(self, found: int, expected: int) -> None:
        if found != expected:
            raise InvalidRequestError(
                f"{self._field} has {found} elements of data; its shape {list(self.shape)} says "
                f"{expected}",
                self._field,
            )

    def _from_raw(self, content: memoryview) -> NDArray[Any]:
        dtype = _DTYPES[self._datatype]
        expected = self._size * dtype.itemsize
        if len(content) != expected:
            raise InvalidRequestError(
                f"{self._field} has {len(content)} bytes of data; {self._datatype} of shape "
                f"{list(self.shape)} has {expected}",
                self._field,
            )
        return np.frombuffer(content, dtype).reshape(self.shape)

    def _elements(self, content: memoryview) -> list[bytes]:
        """Return the elements that raw bytes hold; one says how long it is, not where it ends."""
        found: list[bytes] = []
        at = 0
        for i in range(self._size):
            start = at + _LENGTH.size
            if start > len(content):
                break
            (length,) = _LENGTH.unpack_from(content, at)
            if length > len(content) - start:
                raise InvalidRequestError(
                    f"{self._field}: element {i} claims {length} bytes, and "
                    f"{len(content) - start} are left",
                    self._field,
                )
            at = start + length
            found.append(bytes(content[start:at]))
        self._check_count(len(found), self._size)
        if at != len(content):
            raise InvalidRequestError(
                f"{self._field} has {len(content) - at} bytes behind its last element", self._field
            )
        return found

    def _flat(self, index: int) -> list[Any]:
        if not self._is_nested:
            size = math.prod(self.shape[1:])
            return list(self._listed[index * size : (index + 1) * size])
        level: list[Any] = [self._listed[index]]
        for size in self.shape[1:]:
            if not all(isinstance(part, list) and len(part) == size for part in level):
                raise InvalidRequestError(
                    f"{self._field}.data[{index}] is not of shape {list(self.shape[1:])}",
                    self._field,
                )
            level = list(chain.from_iterable(level))
        return level

    def _checked(self, flat: list[Any]) -> NDArray[Any]:
        dtype = _DTYPES[self._datatype]
        kinds = {int, float} if dtype.kind == "f" else {int}  # by type: true is an int as well
        if not set(map(type, flat)) <= kinds:
            raise self._no_number(next(value for value in flat if type(value) not in kinds))
        least: float
        most: float
        if dtype.kind == "f":
            least, most = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
        else:
            least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        for value in (min(flat), max(flat)):
            if not least <= value <= most:
                raise self._no_number(value)
        return np.array(flat, dtype)

    def _no_number(self, value: object) -> InvalidRequestError:
        return InvalidRequestError(
            f"{self._field} holds {shown(value)}, which is no {self._datatype}", self._field
        )


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of an answer.

    Attributes:
        name: Of the tensor.
        values: float32, or bytes, both of ``shape`` in row-major order.
        shape: Of the tensor.
    """

    name: str
    values: NDArray[np.float32] | list[bytes]
    shape: tuple[int, ...]

    @property
    def datatype(self) -> Datatype:
        """As the protocol names it."""
        return "BYTES" if isinstance(self.values, list) else "FP32"

    def raw(self) -> bytes:
        """Return the tensor as raw bytes."""
        if isinstance(self.values, list):
            return b"".join(_LENGTH.pack(len(value)) + value for value in self.values)
        return self.values.astype(_DTYPES["FP32"], copy=False).tobytes()


def _check_declared(given: GivenTensor, spec: Spec) -> None:
    if given.datatype != spec.datatype:
        raise InvalidRequestError(
            f"{given.field}.datatype={shown(given.datatype)} must be {spec.datatype}",
            f"{given.field}.datatype",
        )
    shapes = [spec.shape]
    if spec.datatype == "BYTES":
        shapes.append((*spec.shape, 1))  # servers with a batch dimension of their own want it
    if not any(_matches(given.shape, shape) for shape in shapes):
        raise InvalidRequestError(
            f"{given.field}.shape={list(given.shape)[:8]} must be {list(spec.shape)}, "
            f"{ANY} for any size from 1 on",
            f"{given.field}.shape",
        )


def _matches(found: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(found) == len(wanted) and all(
        size == want or (want == ANY and size >= 1)
        for size, want in zip(found, wanted, strict=True)
    )

"""JSON into dataclasses, checked on the way.

Types are dataclasses, ``list``, ``dict`` with keys of text, unions, ``Literal``, int, float, str,
bool and None. Fields that a dataclass does not have are left out, so that a newer server can be
read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Read = Callable[[Any], Any]
_MAX_SHOWN = 60  # characters of a value
_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "a boolean", NoneType: "null"}


class MismatchError(ValueError):
    """JSON is not of the type that was asked for."""

    def __init__(self, value: object, expected: str) -> None:
        super().__init__()
        self._value = value
        self.expected = expected
        self.path: list[str] = []  # innermost last

    def __str__(self) -> str:
        where = "".join(self.path).removeprefix(".") or "the answer"
        shown = json.dumps(self._value)
        shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
        return f"{where} is {shown}, not {self.expected}"


def from_json(kind: type[T], text: bytes) -> T:
    """Return what a JSON text says.

    Raises:
        ValueError: If it is no JSON; a `MismatchError` if it is not of this type.
    """
    read: Callable[[Any], T] = _reader(cast(Any, kind))
    return read(json.loads(text))


@cache
def _reader(kind: Any) -> Read:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return _list(_reader(arguments[0]))
    if origin is dict:
        return _dict(_reader(arguments[1]))
    if origin is Literal:
        return _literal(arguments)
    if origin in (Union, UnionType):
        return _union([_reader(one) for one in arguments])
    if is_dataclass(kind):
        return _object(kind)
    return _plain(kind)


def _within(part: str, read: Read, value: object) -> Any:
    try:
        return read(value)
    except MismatchError as error:
        error.path.insert(0, part)
        raise


def _list(read: Read) -> Read:
    def read_list(value: object) -> list[Any]:
        if not isinstance(value, list):
            raise MismatchError(value, "a list")
        return [_within(f"[{i}]", read, one) for i, one in enumerate(value)]

    return read_list


def _dict(read: Read) -> Read:
    def read_dict(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise MismatchError(value, "an object")
        return {key: _within(f".{key}", read, one) for key, one in value.items()}

    return read_dict


def _object(kind: Any) -> Read:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}
    required = [
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    ]

    def read_object(value: object) -> Any:
        if not isinstance(value, dict):
            raise MismatchError(value, "an object")
        for name in required:
            if name not in value:
                raise MismatchError(value, f"an object with {name!r}")
        given = ((name, read) for name, read in readers.items() if name in value)
        return kind(**{name: _within(f".{name}", read, value[name]) for name, read in given})

    return read_object


def _union(options: list[Read]) -> Read:
    def read_union(value: object) -> Any:
        errors = []
        for read in options:
            try:
                return read(value)
            except MismatchError as error:
                errors.append(error)
        deepest = max(errors, key=lambda error: len(error.path))  # fits furthest
        if deepest.path:
            raise deepest
        raise MismatchError(value, " or ".join(error.expected for error in errors))

    return read_union


def _literal(allowed: tuple[Any, ...]) -> Read:
    def read_literal(value: object) -> Any:
        if value not in allowed:
            raise MismatchError(value, " or ".join(map(repr, allowed)))
        return value

    return read_literal


def _plain(kind: type) -> Read:
    def read_plain(value: object) -> Any:
        if type(value) is kind:  # true and false are no numbers
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise MismatchError(value, _NAMES[kind])

    return read_plain

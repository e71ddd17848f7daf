"""From the inputs of `/v1/infer`, by name, to items none of which is read yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError

from server.api.body import check_count
from server.api.request_body import RequestBody
from server.api.rheostat.schema import Name
from server.errors import InvalidRequestError, shown
from server.inputs.sources import Passage, Pixels, Source, Sources, Unread, Upload
from server.served import Served


class TextObject(RequestBody):
    """A text and how it is read."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
    prompt: Name | None = None
    truncate: Literal["left", "right"] | None = Field(default=None)


_Reader = Callable[[str, Any], Source]
Item = Mapping[str, Any]
Ids = Annotated[list[int], Field(fail_fast=True)]


def items_of(
    served: Served, given: Item | Sequence[Item], max_items: int, setting: str
) -> list[Sources]:
    """Return the items of a request.

    Args:
        served: The model.
        given: One item, or several: inputs by name, as JSON has them.
        max_items: Most in one request.
        setting: That says so.

    Raises:
        InvalidRequestError: If an input is not one of the model's, or of another kind.
    """
    if isinstance(given, Mapping):
        return [_item(served, given, "inputs")]
    check_count("inputs", len(given), max_items, setting)
    return [_item(served, one, f"inputs[{i}]") for i, one in enumerate(given)]


def _item(served: Served, given: Item, field: str) -> Sources:
    found: dict[str, Source] = {}
    for name, value in given.items():
        if value is None:
            continue  # not given
        where = f"{field}.{name}"[:80]
        if name not in served.inputs:
            raise InvalidRequestError(
                f"{field}: input {shown(name)} is not known; one of {list(served.inputs)}", where
            )
        found[name] = _READERS[served.inputs[name].type.kind](where, value)
    return found


def _image(field: str, value: Any) -> Source:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{field} must be base64 text", field)
    return Upload(field, value)


def _text(field: str, value: Any) -> Source:
    if isinstance(value, str):
        return Passage(field, value)
    if isinstance(value, list):
        if not all(type(one) is int for one in value):
            raise InvalidRequestError(f"{field} must be a text or a list of token ids", field)
        return Passage(field, value)
    try:
        text = TextObject.model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join([field, *map(str, fault["loc"])])[:80]
        raise InvalidRequestError(f"{where}: {fault['msg']}", where) from None
    return Passage(field, text.text, text.prompt, text.truncate)


def _numbers(field: str, value: Any) -> Source:
    length = len(value) if isinstance(value, list) else 0
    return Unread(length, lambda: Pixels(field, _array(field, value)))


def _array(field: str, value: Any) -> NDArray[np.float32]:
    try:
        array = np.array(value if _are_numbers(value) else None, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.array(np.nan)  # lists of different lengths, or no numbers
    if not array.ndim:
        raise InvalidRequestError(
            f"{field} must be nested lists of numbers, all of one length", field
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return array.astype(np.float32)


def _are_numbers(value: Any) -> bool:
    """Return whether nested lists hold numbers alone; true and false are none."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif type(one) not in (int, float):
            return False
    return True


_READERS: dict[str, _Reader] = {
    "image": _image,
    "text": _text,
    "tensor": _numbers,
    "adapter": _text,
}

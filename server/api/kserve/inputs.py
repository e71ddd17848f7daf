"""From the tensors of a request to the model's inputs, none of them read yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.inputs.content import Side
from server.api.body import check_count
from server.api.kserve.signature import inputs_of
from server.api.kserve.tensors import Given, Rows
from server.catalog import Served
from server.errors import InvalidRequestError, shown
from server.inputs.sources import Passage, Pixels, Source, Unread, Upload


def sources_of(
    served: Served,
    inputs: Sequence[Given],
    max_inputs: int,
    prompt: str | None,
    truncate: Side | None,
) -> list[Source]:
    """Return the inputs of a request; their number is known from the shapes.

    Args:
        served: The model.
        inputs: Its tensors.
        max_inputs: Most that one may hold.
        prompt: Name of a template, for texts; None for the model's default.
        truncate: Which end to cut of texts that are too long; None to refuse them.

    Raises:
        InvalidRequestError: If the tensors are not those of the model, or too long.
    """
    specs = inputs_of(served)
    setting = "max_texts" if served.input.has_length else "max_images"
    tensors: dict[str, Rows] = {}
    for given in inputs:
        if given.name not in specs:
            raise InvalidRequestError(
                f"{given.field}.name={shown(given.name)} is no input of {served.name!r}; "
                f"one of {list(specs)}",
                f"{given.field}.name",
            )
        if given.name in tensors:
            raise InvalidRequestError(f"input {given.name!r} is given twice", given.field)
        if given.shape:
            check_count(given.field, given.shape[0], max_inputs, setting)
        tensors[given.name] = Rows(given, specs[given.name])
    mask = tensors.pop("attention_mask", None)
    if len(tensors) != 1:
        raise InvalidRequestError(
            f"inputs={list(tensors)} must be one of {[name for name in specs if name in _READERS]}",
            "inputs",
        )
    ((name, rows),) = tensors.items()
    if mask is not None and (name != "input_ids" or mask.shape != rows.shape):
        raise InvalidRequestError(
            "attention_mask must have the shape of input_ids, and come with it", "inputs"
        )
    read = _READERS[name]
    return [read(_Row(f"{name}[{i}]", i, rows, mask, prompt, truncate)) for i in range(len(rows))]


@dataclass(frozen=True, slots=True)
class _Row:
    """One input of a request: where it stands, and how to read it."""

    field: str
    index: int
    rows: Rows
    mask: Rows | None
    prompt: str | None
    truncate: Side | None


def _image(row: _Row) -> Source:
    return Upload(row.field, row.rows.element(row.index))


def _pixels(row: _Row) -> Source:
    num_pixels = math.prod(row.rows.shape[1:]) // 3
    return Unread(0, lambda: Pixels(row.field, row.rows.numbers(row.index)), num_pixels)


def _text(row: _Row) -> Source:
    element = row.rows.element(row.index)
    if isinstance(element, bytes):
        try:
            element = element.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"{row.field} is not UTF-8: {error}", row.field) from None
    return Passage(row.field, element, row.prompt, row.truncate)


def _ids(row: _Row) -> Source:
    return Unread(row.rows.shape[1], partial(_read_ids, row))


def _read_ids(row: _Row) -> Source:
    ids: NDArray[np.int64] = row.rows.numbers(row.index)
    if row.mask is not None:
        ids = _unpadded(row.field, ids, row.mask.numbers(row.index))
    # Not a list: there may be millions, of which a model takes the first few hundred.
    return Passage(row.field, cast(Sequence[int], ids), row.prompt, row.truncate)


_READERS: dict[str, Callable[[_Row], Source]] = {
    "image": _image,
    "rgb": _pixels,
    "pixel_values": _pixels,
    "text": _text,
    "input_ids": _ids,
}


def _unpadded(field: str, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids that a mask keeps: one run of them, padding before or behind it."""
    (kept,) = np.nonzero(mask)
    is_run = len(kept) > 0 and kept[-1] - kept[0] + 1 == len(kept)
    if not is_run or not np.isin(mask, (0, 1)).all():
        raise InvalidRequestError(
            f"{field}: its attention_mask must be 0 but for one run of 1", field
        )
    return ids[kept[0] : kept[-1] + 1]

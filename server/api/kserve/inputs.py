"""From the tensors of a request to the model's inputs, none of them read yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.inputs.content import Side
from server.api.body import check_count
from server.api.kserve.signature import Form, forms_of
from server.api.kserve.tensors import GivenTensor, Rows
from server.errors import InvalidRequestError, shown
from server.inputs.sources import Passage, Pixels, Source, Sources, Unread, Upload
from server.served import Served


def sources_of(
    served: Served,
    inputs: Sequence[GivenTensor],
    max_inputs: int,
    prompt: str | None,
    truncate: Side | None,
) -> list[Sources]:
    """Return the items of a request; their number is known from the shapes.

    Args:
        served: The model.
        inputs: Its tensors.
        max_inputs: Most that one may hold.
        prompt: Name of a template, for texts; None for the model's default.
        truncate: Which end to cut of texts that are too long; None to refuse them.

    Raises:
        InvalidRequestError: If the tensors are not those of the model, or too long.
    """
    forms = forms_of(served)
    setting = "max_texts" if served.inputs.has_length else "max_images"
    tensors: dict[str, Rows] = {}
    for given in inputs:
        if given.name not in forms:
            raise InvalidRequestError(
                f"{given.field}.name={shown(given.name)} is no input of {served.name!r}; "
                f"one of {list(forms)}",
                f"{given.field}.name",
            )
        if given.name in tensors:
            raise InvalidRequestError(f"input {given.name!r} is given twice", given.field)
        if given.shape:
            check_count(given.field, given.shape[0], max_inputs, setting)
        tensors[given.name] = Rows(given, forms[given.name].spec)
    by_input: dict[str, list[Source]] = {}
    for name in served.inputs:
        own = {tensor: rows for tensor, rows in tensors.items() if forms[tensor].input == name}
        if own or served.inputs.only == name:
            by_input[name] = _read(name, forms, own, prompt, truncate)
    return _joined(by_input)


def _read(
    name: str,
    forms: Mapping[str, Form],
    tensors: dict[str, Rows],
    prompt: str | None,
    truncate: Side | None,
) -> list[Source]:
    """Return what the tensors of one of the model's inputs hold."""
    roles = {tensor: form.role for tensor, form in forms.items() if form.input == name}
    masks = [tensor for tensor in tensors if roles[tensor] == "attention_mask"]
    mask = tensors.pop(masks[0]) if masks else None
    if len(tensors) != 1:
        allowed = [tensor for tensor, role in roles.items() if role in _READERS]
        raise InvalidRequestError(f"inputs={list(tensors)} must be one of {allowed}", "inputs")
    ((tensor, rows),) = tensors.items()
    if mask is not None and (roles[tensor] != "input_ids" or mask.shape != rows.shape):
        raise InvalidRequestError(
            "attention_mask must have the shape of input_ids, and come with it", "inputs"
        )
    read = _READERS[roles[tensor]]
    return [read(_Row(f"{tensor}[{i}]", i, rows, mask, prompt, truncate)) for i in range(len(rows))]


def _joined(by_input: Mapping[str, Sequence[Source]]) -> list[Sources]:
    """Return items; what has one row is for all of them."""
    counts = {name: len(sources) for name, sources in by_input.items()}
    num_items = max(counts.values())
    for name, count in counts.items():
        if count not in (1, num_items):
            raise InvalidRequestError(
                f"input {name!r} has {count} rows; it must have 1, for all, or {num_items}",
                "inputs",
            )
    return [
        {name: sources[i if len(sources) > 1 else 0] for name, sources in by_input.items()}
        for i in range(num_items)
    ]


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


def _numbers(row: _Row) -> Source:
    length = row.rows.shape[1] if len(row.rows.shape) > 1 else 0
    return Unread(length, lambda: Pixels(row.field, row.rows.numbers(row.index)))


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
    "tensor": _numbers,
    "adapter": _text,
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

"""Parts of requests, and how answers are read, that all calls share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import httpx

from rheostat.asked import Budget
from rheostat.reading import from_json

T = TypeVar("T")


def given(*, budget: Budget | None, **fields: Any) -> dict[str, Any]:
    """Return the fields that are not None, a budget as its limits."""
    found = {name: value for name, value in fields.items() if value is not None}
    limits = {} if budget is None else asdict(budget)
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return {**found, "budget": given} if given else found


def texts_of(name: str, texts: Sequence[str]) -> list[str]:
    """Return several texts; one alone would be taken for as many as it has characters."""
    if isinstance(texts, str):
        raise TypeError(f"{name} is one text; it must be a list of texts")
    return list(texts)


def json_body(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what httpx sends as JSON."""
    # httpx refuses NaN without a name; the server says where it stands.
    return {
        "content": json.dumps(asked).encode(),
        "headers": {"content-type": "application/json"},
    }


def reader(kind: type[T]) -> Callable[[httpx.Response], T]:
    """Return what reads an answer of a kind."""
    return lambda response: from_json(kind, response.content)

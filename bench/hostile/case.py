"""One hostile request: what is sent, and what the server owes for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

CRLF = b"\r\n"


@dataclass(frozen=True)
class Case:
    """Bytes for one connection.

    Attributes:
        what: In a few words, for the report.
        pieces: Sent one after the other.
        is_owed: Whether the server must answer. It need not where the client leaves, or where no
            head has ended.
        wants: The only statuses that are right; empty for any but errors of the server's own.
        method: Of the request, since an answer to HEAD has no body.
    """

    what: str
    pieces: Sequence[bytes]
    is_owed: bool = True
    wants: tuple[int, ...] = ()
    method: str = "POST"


@dataclass(frozen=True)
class Target:
    """What is known of the server.

    Attributes:
        host: With its port, as in the header.
        key: For ``Authorization``; None for no key.
        text_model: Takes texts; None if none does.
        image_model: Takes images; None if none does.
        operations: Method, path and schema of the body, of each that takes JSON.
    """

    host: str
    key: str | None
    text_model: str | None
    image_model: str | None
    operations: Sequence[tuple[str, str, Mapping[str, Any]]]


Maker = Callable[[Random, Target], Case]


def head(
    target: Target,
    path: str,
    headers: Sequence[tuple[str, str]] = (),
    method: str = "POST",
    length: int | None = None,
) -> bytes:
    """Return a head that is in order, but for what is passed in."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.host}", "Connection: close"]
    if target.key is not None:
        lines.append(f"Authorization: Bearer {target.key}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def post(
    target: Target,
    path: str,
    body: bytes,
    content_type: str = "application/json",
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Return a whole request."""
    named = [("Content-Type", content_type), *headers]
    return head(target, path, named, length=len(body)) + body


def post_json(
    target: Target, path: str, body: Any, headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Return a whole request with a JSON body; text that is no Unicode is escaped."""
    return post(target, path, json.dumps(body).encode(), headers=headers)


def text_body(target: Target, text: str = "a plain text") -> dict[str, Any]:
    """Return a body for `/v1/embeddings` that is in order."""
    return {"model": target.text_model, "input": text}

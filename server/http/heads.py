"""The head of a request: how much of one is taken, and what is wrong with one that parses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import httptools

from server.errors import MalformedRequestError

FAULT = "fault"
"""Under which the state of a request's scope has the error that its bytes are."""

WHOLE = "whole"
"""Under which the state of a request's scope says that all of its body has arrived."""

_VERSIONS = ("1.0", "1.1")
_HOST = re.compile(rb"[^\s/?#@\\<>\"{}|^`]*")


class Limits(NamedTuple):
    """What a client may send before it is a request.

    Attributes:
        read_timeout_s: To the end of a head, from the connection or the first byte after an answer.
        max_head_bytes: Of request line and header fields; and of what is neither head nor content
            (chunk sizes, extensions, trailers) beyond the bytes of the content.
        max_head_fields: Header fields, and again trailer fields.
    """

    read_timeout_s: float
    max_head_bytes: int
    max_head_fields: int


class Framing(NamedTuple):
    """What follows a head.

    Attributes:
        length: Of the body, bytes; 0 if there is none or its length is not known.
        is_chunked: Whether the body comes in chunks.
    """

    length: int
    is_chunked: bool


def read_head(headers: Sequence[tuple[bytes, bytes]], version: str, target: bytes) -> Framing:
    """Check a head beyond what the parser sees.

    The rules are RFC 9112's: sections 3.2 (target and Host) and 6.1 (Transfer-Encoding).

    Args:
        headers: Names in lower case.
        version: Such as 1.1.
        target: Of the request line.

    Raises:
        MalformedRequestError: If something is wrong.
    """
    hosts, length, coding = 0, 0, None
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not _HOST.fullmatch(value):
                raise MalformedRequestError("the field Host is no host")
        elif name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            coding = value if coding is None else b"several"
    if version not in _VERSIONS:
        raise MalformedRequestError(f"HTTP/{version} is not spoken here; HTTP/1.1 is")
    if hosts != 1 and (hosts or version == "1.1"):
        raise MalformedRequestError(f"the head has {hosts} fields Host; it must have one")
    if coding is not None and version == "1.0":
        raise MalformedRequestError("the field Transfer-Encoding is not part of HTTP/1.0")
    if coding is not None and coding.strip().lower() != b"chunked":
        raise MalformedRequestError("the field Transfer-Encoding must be chunked")
    if not (target.startswith(b"/") or _has_path(target)):
        raise MalformedRequestError("the request has no path")
    return Framing(length, coding is not None)


def _has_path(target: bytes) -> bool:
    try:
        path = httptools.parse_url(target).path
    except httptools.HttpParserInvalidURLError:
        return False
    return bool(path)

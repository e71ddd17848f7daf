"""The head of a request: how much of one is taken, and what is wrong with one that parses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import httptools

FAULT = "fault"
"""Under which the state of a request's scope has the error that its bytes are."""

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


def fault_of(headers: Sequence[tuple[bytes, bytes]], version: str, target: bytes) -> str | None:
    """Return what is wrong with a head beyond what the parser sees; None if nothing is.

    The rules are RFC 9112's: sections 3.2 (target and Host) and 6.1 (Transfer-Encoding).

    Args:
        headers: Names in lower case.
        version: Such as 1.1.
        target: Of the request line.
    """
    if version not in _VERSIONS:
        return f"HTTP/{version} is not spoken here; HTTP/1.1 is"
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return f"the head has {len(hosts)} fields Host; it must have one"
    if hosts and not _HOST.fullmatch(hosts[0]):
        return "the field Host is no host"
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and version == "1.0":
        return "the field Transfer-Encoding is not part of HTTP/1.0"
    if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        return "the field Transfer-Encoding must be chunked"
    return None if target.startswith(b"/") or _has_path(target) else "the request has no path"


def _has_path(target: bytes) -> bool:
    try:
        path = httptools.parse_url(target).path
    except httptools.HttpParserInvalidURLError:
        return False
    return bool(path)

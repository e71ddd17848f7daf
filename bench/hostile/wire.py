"""Sends a case on a connection of its own and says what came back."""

from __future__ import annotations

import contextlib
import json
import socket
from http.client import HTTPException, HTTPResponse
from typing import Any, NamedTuple

from bench.hostile.case import Case

_ANSWER_S = 60.0
_LEAVE_S = 0.02  # until a client leaves that is owed nothing
_OVERLOAD = (503,)


class Reply(NamedTuple):
    """What a connection gave.

    Attributes:
        status: Of the answer; None if there was none.
        fault: What is wrong with that; None if nothing is.
    """

    status: int | None
    fault: str | None


def send(address: tuple[str, int], case: Case) -> Reply:
    """Send a case and judge the answer."""
    failure, status, body, headers = "", None, b"", {}
    try:
        with socket.create_connection(address, timeout=_ANSWER_S) as connection:
            # A server may answer, and close, before it has read everything.
            with contextlib.suppress(OSError):
                for piece in case.pieces:
                    connection.sendall(piece)
            if not case.is_owed:
                connection.settimeout(_LEAVE_S)
            answer = HTTPResponse(connection, method=case.method)
            answer.begin()
            status, headers = answer.status, dict(answer.headers.items())
            body = answer.read()
    except (OSError, HTTPException) as error:
        failure = f"{type(error).__name__}: {error}"[:100]
    if status is None:
        return Reply(None, f"no answer ({failure})" if case.is_owed else None)
    return Reply(status, _fault(case, status, body, {k.lower(): v for k, v in headers.items()}))


def _fault(case: Case, status: int, body: bytes, headers: dict[str, str]) -> str | None:
    if status in _OVERLOAD:
        return None if "retry-after" in headers else f"{status} without Retry-After: {body[:200]!r}"
    if status == 424 or (status >= 500 and status != 504):
        return f"{status}: {body[:200]!r}"
    if case.wants and status not in case.wants:
        return f"{status} instead of {case.wants[0]}: {body[:200]!r}"
    if headers.get("content-type", "").startswith("application/json") and body:
        return _json_fault(body)
    return None


def _json_fault(body: bytes) -> str | None:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} in an answer")

    try:
        json.loads(body, parse_constant=refuse)
    except ValueError as error:
        return f"the answer is no JSON: {error}"
    return None

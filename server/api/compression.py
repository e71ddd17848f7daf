"""Bodies that travel compressed: gzip, and deflate in zlib's format (RFC 9110, section 8.4.1)."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import (
    InvalidRequestError,
    PayloadTooLargeError,
    UnsupportedMediaError,
    shown,
)

_WINDOWS = {"gzip": 31, "deflate": 15}  # zlib's wbits of each format
_OLD_NAMES = {"x-gzip": "gzip"}
_OF_THE_WIRE = (b"content-encoding", b"content-length")
_AT_ONCE = 2  # bodies on threads, each of which may become as large as the limit
_SMALL = 65_536  # bytes that take less than a thread's start
_LEAST_BYTES = 1024  # shorter ones gain nothing
_FASTEST = 1  # numbers hardly shrink; more effort brings little


class Decompression:
    """Hand on bodies as they were before compression, and requests as if they never had been."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Go around an application.

        Args:
            app: The application.
            max_bytes: Most that a body may become.
        """
        self._app = app
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] != "http" or not (encoding := _encoding(scope)):
            return self._app(scope, receive, send)
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in _OF_THE_WIRE]
        is_done = False

        async def receive_plain() -> Message:
            nonlocal is_done
            if is_done:
                return await receive()
            check_encoding(encoding)
            received, more = [], True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                received.append(message.get("body", b""))
                more = message.get("more_body", False)
            is_done = True
            body = await self._plain(b"".join(received), encoding)
            return {"type": "http.request", "body": body, "more_body": False}

        return self._app(scope, receive_plain, send)

    async def _plain(self, body: bytes, encoding: str) -> bytes:
        """Return a body decompressed: what is small at once, the rest in turns on a thread."""
        if len(body) <= _SMALL:
            with suppress(PayloadTooLargeError):  # megabytes of zeros are made from kilobytes
                return decompressed(body, encoding, min(_SMALL, self._max_bytes))
        async with self._turns:
            return await asyncio.to_thread(decompressed, body, encoding, self._max_bytes)


def _encoding(scope: Scope) -> str:
    """Return the codings of a body, as one list; empty if it has none."""
    lists = [value.decode("latin-1") for name, value in scope["headers"] if name == _OF_THE_WIRE[0]]
    if not lists:
        return ""
    names = [name.strip().lower() for name in ",".join(lists).split(",")]
    return ", ".join(_OLD_NAMES.get(name, name) for name in names if name not in ("", "identity"))


def check_encoding(encoding: str) -> None:
    """Refuse codings that are not known here, and several on top of each other.

    Raises:
        UnsupportedMediaError: Naming those that are.
    """
    if encoding not in _WINDOWS:
        raise UnsupportedMediaError(
            f"content-encoding={shown(encoding)} must be one of {', '.join(_WINDOWS)}, identity"
        )


def decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a body as it was before compression; never makes more than the limit of it.

    Args:
        body: As received.
        encoding: One that is known here.
        max_bytes: Most that may come out.

    Raises:
        PayloadTooLargeError: If more than the limit would come out.
        InvalidRequestError: If the body is not what the encoding says, or not all of it.
    """
    if not body:  # whoever compresses everything may send nothing
        return body
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        found = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body is not {encoding}: {error}") from None
    if len(found) > max_bytes:
        raise PayloadTooLargeError(
            f"the body exceeds {max_bytes} bytes once decompressed (max_body_bytes)"
        )
    if not stream.eof or stream.unused_data:
        fault = "goes on behind its end" if stream.eof else "is cut off"
        raise InvalidRequestError(f"the {encoding} body {fault}")
    return found


def wanted(accepted: str, num_bytes: int) -> str | None:
    """Return the encoding that a client likes best for a body of a size; None for none.

    Args:
        accepted: The header ``Accept-Encoding``.
        num_bytes: Of the body as it is.
    """
    weights = {name: _weight(accepted, name) for name in _WINDOWS}
    best = max(weights, key=weights.__getitem__)
    return best if weights[best] > 0 and num_bytes >= _LEAST_BYTES else None


def compressed(body: bytes, encoding: str) -> bytes:
    """Return a body in an encoding that was `wanted`."""
    stream = zlib.compressobj(_FASTEST, wbits=_WINDOWS[encoding])
    return stream.compress(body) + stream.flush()


def _weight(accepted: str, encoding: str) -> float:
    """Return how much a client likes an encoding that it names, 0 if it does not."""
    for entry in accepted.split(","):
        name, _, parameter = entry.partition(";")
        if name.strip().lower() == encoding:
            key, _, value = parameter.strip().partition("=")
            try:
                return float(value) if key.lower() == "q" else 1.0
            except ValueError:
                return 0.0
    return 0.0

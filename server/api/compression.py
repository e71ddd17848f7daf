"""Bodies that travel compressed: gzip, and deflate in zlib's format (RFC 9110, section 8.4.1)."""

from __future__ import annotations

import zlib

from server.errors import (
    InvalidRequestError,
    PayloadTooLargeError,
    UnsupportedMediaError,
    shown,
)

_WINDOWS = {"gzip": 31, "deflate": 15}  # zlib's wbits of each format
_LEAST_BYTES = 1024  # shorter ones gain nothing
_FASTEST = 1  # numbers hardly shrink; more effort brings little


def decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a body as it was before compression; never makes more than the limit of it.

    Args:
        body: As received.
        encoding: The header ``Content-Encoding``; empty or ``identity`` for none.
        max_bytes: Most that may come out.

    Raises:
        UnsupportedMediaError: If the encoding is another.
        PayloadTooLargeError: If more than the limit would come out.
        InvalidRequestError: If the body is not what the encoding says, or not all of it.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOWS:
        raise UnsupportedMediaError(
            f"content-encoding={shown(encoding)} must be one of {', '.join(_WINDOWS)}, identity"
        )
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

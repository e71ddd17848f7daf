"""How much there is in a JSON body, counted before it is parsed.

Parsing holds the interpreter's lock, so that nothing else goes on meanwhile: megabytes of text take
milliseconds, but millions of small values take seconds.
"""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidRequestError

# Beyond these, with the dearest schema there is, parsing took more than a tenth of a second.
MAX_CONTAINERS = 2**14
MAX_STRINGS = 2**16
MAX_VALUES = 2**20
_SMALL_BYTES = 2**15  # not worth counting

_QUOTE, _COMMA, _BRACKETS = ord('"'), ord(","), (ord("["), ord("{"))
_Bytes = NDArray[np.uint8]


async def check_json(body: bytes) -> None:
    """Refuse a body that would take long to parse, whatever it says.

    Raises:
        InvalidRequestError: Saying what there is too much of, and what is allowed.
    """
    if len(body) <= _SMALL_BYTES:
        return
    found = np.frombuffer(body, dtype=np.uint8)
    if _excess(found):  # perhaps within texts, which may hold what they like
        outside = await asyncio.to_thread(_outside_strings, body)
        if excess := _excess(outside):
            raise InvalidRequestError(f"the JSON has more than {excess}")


def _excess(found: _Bytes) -> str | None:
    """Return what there is too much of, going by single characters."""
    if sum(_count(found, one) for one in _BRACKETS) > MAX_CONTAINERS:
        return f"{MAX_CONTAINERS} lists and objects"
    if _count(found, _QUOTE) > 2 * MAX_STRINGS:
        return f"{MAX_STRINGS} texts and names of fields"
    if _count(found, _COMMA) > MAX_VALUES:
        return f"{MAX_VALUES} values"
    return None


def _count(found: _Bytes, character: int) -> int:
    return int(np.count_nonzero(found == character))


def _outside_strings(body: bytes) -> _Bytes:
    """Return what is not within quotes, and the quotes themselves."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    found = np.frombuffer(body, dtype=np.uint8)
    is_quote = found == _QUOTE
    # Sums wrap around at 256, which leaves them odd or even as they were.
    is_within = np.cumsum(is_quote, dtype=np.uint8) & 1 == 1
    outside: _Bytes = found[~is_within | is_quote]
    return outside

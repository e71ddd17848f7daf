"""Which pages of other origins may ask, from a browser, and what of an answer they may read."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypedDict

from server.api.answer import RECEIPT_HEADERS
from server.api.kserve.body import HEADER_LENGTH
from server.api.tei.routes import TIMING_HEADERS

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
EXPOSED = (
    "x-request-id",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "www-authenticate",
    "allow",
    HEADER_LENGTH.lower(),
    *RECEIPT_HEADERS,
    *TIMING_HEADERS,
)


class Cors(TypedDict):
    """Arguments of Starlette's `CORSMiddleware`."""

    allow_origins: Collection[str]
    allow_methods: Collection[str]
    allow_headers: Collection[str]
    expose_headers: Collection[str]


def cors(origins: Collection[str]) -> Cors:
    """Return what lets pages of some origins in.

    Keys travel in headers and not in cookies, so credentials are never allowed; any header may be
    sent, since browsers ask before.

    Args:
        origins: Such as ``https://example.org``; ``*`` for any.
    """
    return Cors(
        allow_origins=origins, allow_methods=METHODS, allow_headers=["*"], expose_headers=EXPOSED
    )

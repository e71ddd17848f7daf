"""API keys: made, hashed and checked.

A key is ``rh-ID-SECRET``. The id finds the record and may be shown; the secret is 256 random bits
and is shown once. What is stored is the SHA-256 of the whole key. Slow, salted hashes protect
secrets that people choose, because those can be guessed; 256 random bits cannot, so a plain hash
gives away nothing, and it is checked with every request, where a slow one would be a way to
overload the server. Digests are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

_KEY = re.compile(r"rh-([0-9a-f]{16})-[A-Za-z0-9_-]{43}")


class Scope(StrEnum):
    """What a key opens. None includes another."""

    ADMIN = "admin"
    INFER = "infer"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored.

    Attributes:
        id: Of the key, public.
        digest: Of the whole key, hexadecimal.
        scopes: What it opens.
        client: Whose it is; None for nobody's, whose requests inherit nothing.
        label: What people call it.
        created: Unix time, seconds; so are those that follow.
        expires: None for never.
        revoked: None if it was not.
        last_used: None if never, or not yet written.
    """

    id: str
    digest: str
    scopes: frozenset[Scope]
    client: str | None
    label: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    last_used: float | None = None

    def matches(self, text: str) -> bool:
        """Return whether a key is this one; takes the same time wherever it differs."""
        return hmac.compare_digest(_digest(text), self.digest)


def new_key(
    scopes: Collection[Scope],
    client: str | None,
    label: str,
    created: float,
    expires: float | None,
) -> tuple[str, Key]:
    """Make a key; return its text, which nothing keeps, and its record."""
    key_id = secrets.token_hex(8)
    text = f"rh-{key_id}-{secrets.token_urlsafe(32)}"
    record = Key(key_id, _digest(text), frozenset(scopes), client, label, created, expires)
    return text, record


def id_of(text: str) -> str | None:
    """Return the id in a key; None if it is none of ours."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

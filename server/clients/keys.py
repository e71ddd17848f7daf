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

from server.errors import InvalidRequestError, UnknownKeyError, shown

CLIENT_ID = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
MAX_LABEL = 200  # characters
LEAST_LIFE_S, MOST_LIFE_S = 1.0, 36_500 * 86_400.0  # of a key that expires
_ID = re.compile(r"[0-9a-f]{16}")
_KEY = re.compile(rf"rh-({_ID.pattern})-[A-Za-z0-9_-]{{43}}")


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

    def ended(self, now: float) -> float | None:
        """Return since when the key opens nothing, Unix time; None if it is good at a moment."""
        if self.revoked is not None:
            return self.revoked
        return self.expires if self.expires is not None and self.expires <= now else None


def check_new(client: str | None, label: str, expires_in_s: float | None) -> None:
    """Refuse a key that could not be stored or shown, or would never open anything.

    Raises:
        InvalidRequestError: Naming the field, its value and what is allowed.
    """
    if client is not None and not re.fullmatch(CLIENT_ID, client):
        raise InvalidRequestError(f"client={shown(client)} must match {CLIENT_ID}", "client")
    if len(label) > MAX_LABEL or not label.isprintable():
        raise InvalidRequestError(
            f"label={shown(label)} must be at most {MAX_LABEL} characters that can be printed",
            "label",
        )
    # Not the other way round: a NaN is not below anything.
    if expires_in_s is not None and not LEAST_LIFE_S <= expires_in_s <= MOST_LIFE_S:
        raise InvalidRequestError(
            f"expires_in_s={expires_in_s:g} must be from {LEAST_LIFE_S:g} to {MOST_LIFE_S:.0f}, "
            "which is 100 years",
            "expires_in_s",
        )


def check_id(key_id: str) -> None:
    """Refuse what cannot be the id of a key: not every database takes every text.

    Raises:
        UnknownKeyError: If it is none.
    """
    if not _ID.fullmatch(key_id):
        raise UnknownKeyError(f"key {shown(key_id)} is not known", "key")


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

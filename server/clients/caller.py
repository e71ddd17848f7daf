"""Who sends a request."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fastapi import Request

from server.clients.profile import ClientProfile


@dataclass(frozen=True, slots=True)
class Caller:
    """A client, as far as the life of a request goes.

    Attributes:
        client: Whose the request is; empty where nobody has to say.
        weight: The client's share of what its class gets, above 0.
        priority: Class of its requests; lower ones go first, always.
        profile: What its requests inherit; None for nothing.
    """

    client: str = ""
    weight: float = 1.0
    priority: int = 0
    profile: ClientProfile | None = None

    @property
    def models(self) -> Collection[str] | None:
        """Names of the models that there are for this client; None for all."""
        return None if self.profile is None else self.profile.models


ANYONE = Caller()


def caller_of(request: Request) -> Caller:
    """Return who sends a request."""
    caller: Caller = request.scope["state"].get("caller", ANYONE)
    return caller

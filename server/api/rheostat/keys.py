"""`/v1/keys`: keys of clients and of those who run the server."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from server.api.body import read_json
from server.api.documentation import errors, inlined, request_docs
from server.api.request_body import RequestBody
from server.clients.clients import Clients
from server.clients.keys import CLIENT_ID, LEAST_LIFE_S, MAX_LABEL, MOST_LIFE_S, Key, Scope


class KeyBody(RequestBody):
    """A key to be made."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        json_schema_extra={"examples": [{"client": "shop", "scopes": ["infer"]}]},
    )

    scopes: set[Annotated[Scope, Field(strict=False)]] = Field(
        min_length=1, strict=False, description="What it opens; none includes another."
    )
    client: str | None = Field(
        default=None,
        pattern=CLIENT_ID,
        description="Whose it is. Default: nobody's; its requests inherit nothing.",
    )
    label: str = Field(
        default="", max_length=MAX_LABEL, description="What people call it; printable."
    )
    expires_in_s: float | None = Field(
        default=None, ge=LEAST_LIFE_S, le=MOST_LIFE_S, description="Default: never."
    )


class KeyAnswer(BaseModel):
    """A key without its secret. Times are Unix times."""

    id: str
    client: str | None
    scopes: list[Scope]
    label: str
    created: float
    expires: float | None
    revoked: float | None
    last_used: float | None = Field(description="Written every ten seconds.")


class NewKeyAnswer(KeyAnswer):
    """A key that has just been made."""

    key: str = Field(description="Shown this once; only its hash is stored.")


class KeyList(BaseModel):
    """All keys; those that ended for 30 days at most, and of each client the last 32."""

    keys: list[KeyAnswer]


def routes(clients: Clients) -> APIRouter:
    """Return the routes that make, list and revoke keys."""
    router = APIRouter(prefix="/v1/keys", tags=["clients"])

    @router.get("", responses=errors(503))
    async def list_keys() -> KeyList:
        """List all keys."""
        return KeyList(keys=[KeyAnswer(**_fields(key)) for key in await clients.store.keys()])

    @router.post(
        "",
        status_code=201,
        openapi_extra=request_docs(json=inlined(KeyBody)),
        responses=errors(404, 409, 413, 415, 422, 503),
    )
    async def create_key(request: Request) -> NewKeyAnswer:
        """Make a key. Its text is in this answer and nowhere else."""
        body = await read_json(request, KeyBody)
        text, key = await clients.create_key(
            body.scopes, body.client, body.label, body.expires_in_s
        )
        return NewKeyAnswer(key=text, **_fields(key))

    @router.delete("/{key}", status_code=204, responses=errors(404, 503))
    async def revoke_key(key: str) -> None:
        """Revoke a key; other replicas follow within a second."""
        await clients.revoke_key(key)

    return router


def _fields(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "client": key.client,
        "scopes": sorted(key.scopes),
        "label": key.label,
        "created": key.created,
        "expires": key.expires,
        "revoked": key.revoked,
        "last_used": key.last_used,
    }

"""`/v1/clients`: who may use the server, for whoever runs it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from search.budget import Budget
from server.api.body import read_json
from server.api.documentation import errors, inlined, request_docs
from server.api.request_body import RequestBody
from server.api.rheostat.schema import BudgetBody, Name
from server.catalog import Catalog
from server.clients.clients import Clients
from server.clients.keys import CLIENT_ID
from server.clients.profile import (
    CEILINGS,
    LEAST_REQUESTS_PER_S,
    MOST_FLOPS,
    MOST_REQUESTS,
    ClientProfile,
    Quota,
    check_profile,
)

ClientId = Annotated[str, Path(pattern=CLIENT_ID)]
_Weight = Annotated[float, Field(ge=0)]
_MAX_NAMES = 1000


class _Stored(RequestBody):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class MaximumBody(_Stored):
    """Ceilings that no request of the client may exceed."""

    flops: float | None = Field(default=None, gt=0)
    macs: float | None = Field(default=None, gt=0)
    fraction: float | None = Field(default=None, gt=0, le=1)
    latency_ms: float | None = Field(default=None, gt=0)
    bytes: float | None = Field(default=None, gt=0)


class QuotaBody(_Stored):
    """How much the client may use; what is left out is not limited."""

    requests_per_s: float | None = Field(
        default=None, ge=LEAST_REQUESTS_PER_S, le=MOST_REQUESTS, description="Sustained."
    )
    request_burst: float | None = Field(
        default=None,
        ge=1,
        le=MOST_REQUESTS,
        description="Requests at once after a pause. Default: one second's worth, at least 1.",
    )
    flops_per_s: float | None = Field(
        default=None, ge=1, le=MOST_FLOPS, description="Sustained; FLOPs are 2 x MACs."
    )
    flops_burst: float | None = Field(
        default=None,
        ge=1,
        le=MOST_FLOPS,
        description="FLOPs at once after a pause. Default: one second's worth.",
    )
    flops_per_day: float | None = Field(
        default=None, ge=1, le=MOST_FLOPS, description="From midnight to midnight, UTC."
    )


class ClientBody(_Stored):
    """What the client's requests inherit, and how much it may use."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "preferences": {"cifar100-mtl": {"fish": 3, "flowers": 1}},
                    "budget": {"fraction": 0.5, "min_quality": 0.8},
                    "maximum": {"fraction": 0.8},
                    "priority": 1,
                    "weight": 2.0,
                    "quota": {"requests_per_s": 50, "flops_per_day": 1e15},
                    "models": ["cifar100-mtl"],
                }
            ]
        }
    )

    preferences: dict[Name, dict[Name, _Weight]] = Field(
        default={},
        max_length=_MAX_NAMES,
        description="Weight of each task, by model, for requests that give none.",
    )
    budget: BudgetBody = Field(
        default=BudgetBody(),
        description="Ceilings of requests that set none; `min_quality` of those that set none; "
        "`strict` holds for all.",
    )
    maximum: MaximumBody = Field(
        default=MaximumBody(),
        description="A request that asks for more is refused; one that asks for nothing gets this.",
    )
    priority: int = Field(
        default=0, ge=0, le=9, description="Class of its requests; lower ones go first, always."
    )
    weight: float = Field(
        default=1.0, ge=0.001, le=1000, description="Its share of what its class gets."
    )
    quota: QuotaBody = QuotaBody()
    adapters: dict[Name, Name] = Field(
        default={},
        max_length=_MAX_NAMES,
        description="Adapter, by model, of requests that name none.",
    )
    models: list[Name] | None = Field(
        default=None, min_length=1, max_length=_MAX_NAMES, description="Default: every model."
    )


class ClientAnswer(ClientBody):
    """A client as it is stored."""

    id: str


class ClientList(BaseModel):
    """All clients."""

    clients: list[ClientAnswer]


def routes(clients: Clients, catalog: Catalog) -> APIRouter:
    """Return the routes that read and change clients.

    Args:
        clients: Stored.
        catalog: Says what models and tasks there are.
    """
    router = APIRouter(prefix="/v1/clients", tags=["clients"])

    @router.get("", responses=errors(503))
    async def list_clients() -> ClientList:
        """List all clients."""
        found = sorted((await clients.store.clients()).items())
        return ClientList(clients=[_answer(client, profile) for client, profile in found])

    @router.get("/{client}", responses=errors(404, 422, 503))
    async def get_client(client: ClientId) -> ClientAnswer:
        """Return one client."""
        return _answer(client, await clients.store.client(client))

    @router.put(
        "/{client}",
        openapi_extra=request_docs(json=inlined(ClientBody)),
        responses=errors(409, 413, 415, 422, 503),
    )
    async def put_client(client: ClientId, request: Request, response: Response) -> ClientAnswer:
        """Store a client, in place of what was stored; other replicas follow within a second."""
        profile = _profile(await read_json(request, ClientBody))
        check_profile(
            profile,
            {name: one.elastic.tasks for name, one in catalog.items()},
            {name: one.inputs.adapters for name, one in catalog.items()},
        )
        response.status_code = 201 if await clients.store.put_client(client, profile) else 200
        await clients.directory.refresh()
        return _answer(client, profile)

    @router.delete("/{client}", status_code=204, responses=errors(404, 422, 503))
    async def delete_client(client: ClientId) -> None:
        """Delete a client and its keys."""
        await clients.store.delete_client(client)
        await clients.directory.refresh()

    return router


def _profile(body: ClientBody) -> ClientProfile:
    return ClientProfile(
        preferences=body.preferences,
        budget=Budget(**body.budget.model_dump()),
        maximum=Budget(**body.maximum.model_dump()),
        priority=body.priority,
        weight=body.weight,
        quota=Quota(**body.quota.model_dump()),
        models=None if body.models is None else tuple(body.models),
        adapters=body.adapters,
    )


def _answer(client: str, profile: ClientProfile) -> ClientAnswer:
    return ClientAnswer(
        id=client,
        preferences={model: dict(weights) for model, weights in profile.preferences.items()},
        budget=BudgetBody(**asdict(profile.budget)),
        maximum=MaximumBody(**{name: getattr(profile.maximum, name) for name in CEILINGS}),
        priority=profile.priority,
        weight=profile.weight,
        quota=QuotaBody(**asdict(profile.quota)),
        models=None if profile.models is None else list(profile.models),
        adapters=dict(profile.adapters),
    )

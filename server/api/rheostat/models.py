"""`GET /v1/models`: what is served, readable by OpenAI clients."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi import APIRouter, Request
from pydantic import TypeAdapter

from models.core import Cost
from models.space import Subnet
from models.vectors import space_choices
from server.api.dimensions import allowed_dimensions
from server.api.documentation import errors
from server.api.openai.form import OPENAI, form
from server.api.rheostat.models_schema import (
    AuditEntry,
    AxisEntry,
    CostEntry,
    FrontEntry,
    InputEntry,
    ModelDetail,
    ModelEntry,
    ModelList,
    SpaceEntry,
    TaskEntry,
)
from server.audit.audit import PointAudit
from server.clients.caller import caller_of
from server.served import Served
from server.service import Service

_INPUT: TypeAdapter[InputEntry] = TypeAdapter(InputEntry)


def routes(service: Service) -> APIRouter:
    """Return the routes that describe the models that there are for a client."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("", responses=errors())
    async def list_models(request: Request) -> ModelList:
        """List the models served."""
        found = service.models_of(caller_of(request))
        return ModelList(data=[_entry(served, name) for name, served in found.names])

    @router.get("/{model:path}", responses=errors() | errors(404, by=[OPENAI], public=True))
    async def describe_model(request: Request, model: str) -> ModelDetail:
        """Describe one model: its axes, tasks, input, cost and Pareto front."""
        request.scope["state"]["form"] = form
        served = service.models_of(caller_of(request)).choose(model)
        return _detail(served, model, service.audit.points(served))

    return router


def _entry(served: Served, name: str) -> ModelEntry:
    return ModelEntry(
        id=name,
        root=served.name,
        created=served.created_s,
        family=served.manifest.family,
        version=served.manifest.version,
        tasks=list(served.elastic.tasks),
        num_subnets=math.prod(len(axis.values) for axis in served.elastic.space.axes),
        matryoshka_dimensions=allowed_dimensions(served),
    )


def _detail(served: Served, name: str, audits: Mapping[int, PointAudit]) -> ModelDetail:
    space = served.elastic.space
    return ModelDetail(
        **_entry(served, name).model_dump(),
        axes=[
            AxisEntry(name=a.name, values=list(a.values), kind=a.kind, when=a.when, task=a.task)
            for a in space.axes
        ],
        task_details={
            name: TaskEntry(
                kind=task.kind,
                labels=list(task.labels),
                channels=list(task.channels),
                unit=task.unit,
                metric=task.metric,
                score=float(served.table.cells[name].value[-1, -1]),
            )
            for name, task in served.elastic.tasks.items()
        },
        inputs={
            name: _INPUT.validate_python({"required": slot.required, **slot.type.describe()})
            for name, slot in served.inputs.items()
        },
        cheapest=_cost_entry(_cost(served, space.smallest)),
        largest=_cost_entry(_cost(served, space.largest)),
        spaces=_spaces(served),
        front=[
            FrontEntry(
                macs=point.cost.macs,
                flops=point.cost.flops,
                bytes=point.cost.bytes,
                fraction=point.fraction,
                quality=point.quality,
                subnet=dict(point.subnet),
                space=served.space_of(point.subnet),
                audit=_audit(audits[number]) if number in audits else None,
            )
            for number, point in enumerate(served.front)
        ],
    )


def _audit(seen: PointAudit) -> AuditEntry:
    return AuditEntry(
        samples=seen.samples,
        agreement=seen.agreement.mean,
        agreement_low=seen.agreement.low,
        agreement_high=seen.agreement.high,
        expected=seen.expected,
        rank_agreement=None if seen.ranks is None else seen.ranks.mean,
        kept=seen.kept,
    )


def _spaces(served: Served) -> list[SpaceEntry]:
    """Return the spaces of the table's subnets, in the table's order."""
    found: dict[str, SpaceEntry] = {}
    for row in served.table.rows:
        named = served.inputs.adapters if served.inputs.adapter in served.names(row) else ()
        for adapter in named or ("",):
            space = served.space_of(row, (adapter,) if adapter else ())
            if space is None:
                continue
            if space not in found:
                choices = dict(space_choices(served.elastic, row))
                choices |= {"adapter": adapter} if adapter else {}
                found[space] = SpaceEntry(space=space, choices=choices, num_subnets=0)
            found[space].num_subnets += 1
    return list(found.values())


def _cost(served: Served, subnet: Subnet) -> Cost:
    return served.prepare(subnet, served.elastic.tasks).plan.cost


def _cost_entry(cost: Cost) -> CostEntry:
    return CostEntry(macs=cost.macs, flops=cost.flops, bytes=cost.bytes)

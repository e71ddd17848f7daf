"""`GET /v1/models`: what is served, readable by OpenAI clients."""

from __future__ import annotations

import math
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from models.core import Cost, Subnet, Value, plan_cost
from models.inputs import FORMATS, ImageInput, ModelInput
from models.text import TextInput
from server.api.schema import errors
from server.catalog import Catalog, Served


class ModelEntry(BaseModel):
    """One model, in short."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When its checkpoint was written, Unix time.")
    owned_by: str = "rheostat"
    family: str
    version: str
    tasks: list[str]
    num_subnets: int = Field(description="Size of the product of its axes.")


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class AxisEntry(BaseModel):
    """One thing that can be chosen."""

    name: str
    values: list[Value] = Field(description="Cheapest first.")
    kind: str
    when: str
    task: str | None = Field(description="The only task whose answer depends on it; null: all.")


class TaskEntry(BaseModel):
    """One question the model answers."""

    kind: str
    labels: list[str]
    metric: str
    score: float = Field(description="Of the largest subnet, in the metric.")


class ImageEntry(BaseModel):
    """What an image may be and what becomes of it."""

    kind: Literal["image"] = "image"
    formats: list[str]
    height: int
    width: int
    resize: str


class TextEntry(BaseModel):
    """What a text may be and what it is put into."""

    kind: Literal["text"] = "text"
    max_length: int = Field(description="Most tokens, special tokens included.")
    prompts: dict[str, str] = Field(description="Templates by name.")
    default_prompt: str | None


class CostEntry(BaseModel):
    """Compute for one input, all tasks; for text, of the greatest length."""

    macs: int
    flops: int


class FrontEntry(CostEntry):
    """A subnet that no other beats in both cost and quality."""

    fraction: float
    quality: float
    subnet: dict[str, Value]


class ModelDetail(ModelEntry):
    """One model, in full."""

    axes: list[AxisEntry]
    task_details: dict[str, TaskEntry]
    input: ImageEntry | TextEntry
    cheapest: CostEntry
    largest: CostEntry
    front: list[FrontEntry] = Field(description="Equal weights, cheapest first.")


def routes(catalog: Catalog) -> APIRouter:
    """Return the routes that describe the models of a catalogue."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    async def list_models() -> ModelList:
        """List the models served."""
        return ModelList(data=[_entry(served) for served in catalog.values()])

    @router.get("/{model}", responses=errors(404, 422))
    async def describe_model(model: str) -> ModelDetail:
        """Describe one model: its axes, tasks, input, cost and Pareto front."""
        return _detail(catalog.choose(model))

    return router


def _entry(served: Served) -> ModelEntry:
    return ModelEntry(
        id=served.name,
        created=served.created_s,
        family=served.manifest.family,
        version=served.manifest.version,
        tasks=list(served.elastic.tasks),
        num_subnets=math.prod(len(axis.values) for axis in served.elastic.space.axes),
    )


def _detail(served: Served) -> ModelDetail:
    space = served.elastic.space
    return ModelDetail(
        **_entry(served).model_dump(),
        axes=[
            AxisEntry(name=a.name, values=list(a.values), kind=a.kind, when=a.when, task=a.task)
            for a in space.axes
        ],
        task_details={
            name: TaskEntry(
                kind=task.kind,
                labels=list(task.labels),
                metric=task.metric,
                score=float(served.table.cells[name].value[-1, -1]),
            )
            for name, task in served.elastic.tasks.items()
        },
        input=_input_entry(served.input),
        cheapest=_cost_entry(_cost(served, space.smallest)),
        largest=_cost_entry(_cost(served, space.largest)),
        front=[
            FrontEntry(
                macs=point.cost.macs,
                flops=point.cost.flops,
                fraction=point.fraction,
                quality=point.quality,
                subnet=dict(point.subnet),
            )
            for point in served.front
        ],
    )


def _input_entry(model_input: ModelInput) -> ImageEntry | TextEntry:
    if isinstance(model_input, TextInput):
        config = model_input.config
        return TextEntry(
            max_length=config.max_length,
            prompts=dict(config.prompts),
            default_prompt=config.default_prompt,
        )
    assert isinstance(model_input, ImageInput)
    return ImageEntry(
        formats=list(FORMATS),
        height=model_input.height,
        width=model_input.width,
        resize="bicubic until the shorter side fits, then cut at the centre",
    )


def _cost(served: Served, subnet: Subnet) -> Cost:
    return plan_cost(served.prepare(subnet, served.elastic.tasks).plan)


def _cost_entry(cost: Cost) -> CostEntry:
    return CostEntry(macs=cost.macs, flops=cost.flops)

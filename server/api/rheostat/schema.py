"""The JSON of `/v1/infer` and `/v1/plan`: what is asked and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from models.space import Value
from server.api.adapters import Adapter
from server.api.request_body import RequestBody
from server.api.sides import SideOfSearch

MAX_PRIORITY = 999

Name = Annotated[str, Field(max_length=200)]
Priority = Annotated[
    int | None,
    Field(
        ge=0,
        le=MAX_PRIORITY,
        strict=True,
        description="0 is the highest: lower numbers run earlier and are refused last. Nobody gets "
        "ahead of the class that the server's own configuration gives them.",
    ),
]
# Fail fast: a list of a million wrong entries must not cost a million errors.
_Names = Annotated[list[Name], Field(fail_fast=True)]
_Images = Annotated[list[str], Field(fail_fast=True)]
_MAX_NAMES = 1000  # more than any model has tasks; keeps messages short

_EXAMPLE: dict[str, Any] = {
    "tasks": ["fish"],
    "preferences": {"fish": 1.0},
    "budget": {"fraction": 0.5},
}


class _StrictBody(RequestBody):
    """Strict: no unknown field, no text or true for a number, no NaN, no Infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class BudgetBody(_StrictBody):
    """Limits for each input, latency and weights for all together; all that are given hold."""

    flops: float | None = Field(
        default=None, gt=0, description="Floating-point operations, 2 x MACs."
    )
    macs: float | None = Field(default=None, gt=0, description="Multiply-accumulates.")
    fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Of the MACs of the largest subnet for the same tasks.",
    )
    min_quality: float | None = Field(
        default=None,
        gt=0,
        description="Keep at least this preference-weighted mean retention, as cheaply as "
        "possible. 1 is the largest subnet.",
    )
    latency_ms: float | None = Field(
        default=None,
        gt=0,
        description="Milliseconds of the whole request, waiting included. The best subnet that is "
        "predicted to keep it runs; past it, what has not run yet is given up with 504. Of a "
        "ranking: when the best order so far is the answer.",
    )
    bytes: float | None = Field(
        default=None,
        gt=0,
        description="Of the weights that the subnet computes with: what a model of it alone would "
        "hold.",
    )
    strict: bool | None = Field(
        default=None,
        description="true: never run a smaller subnet because others wait; refuse with 429 "
        "instead. false: load may make the subnet smaller. Default: false with a limit, true "
        "without one.",
    )


class PlanBody(_StrictBody):
    """What to answer and what to spend on it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    model: Name | None = Field(
        default=None, description="May be left out where one model is served."
    )
    tasks: _Names | None = Field(
        default=None,
        min_length=1,
        max_length=_MAX_NAMES,
        description="Default: every task of the model, none that is of one side of a search.",
    )
    preferences: dict[Name, Annotated[float, Field(ge=0)]] | None = Field(
        default=None,
        min_length=1,
        max_length=_MAX_NAMES,
        description="Weight of each task, on any scale. A task not named weighs 0: it is answered, "
        "as cheaply as possible. Default: equal weights.",
    )
    budget: BudgetBody | None = Field(
        default=None, description="Default: the largest subnet may run."
    )
    side: SideOfSearch = None
    adapter: Adapter = None
    priority: Priority = None


class FullPlanBody(PlanBody):
    """A question without an input, for its receipt alone."""

    tokens: int | None = Field(
        default=None,
        gt=0,
        description="Length of the texts to plan for; text models only. Default: the longest.",
    )


_Item = dict[Name, Any]


class InferBody(PlanBody):
    """A question with its items; exactly one of ``inputs``, ``image`` and ``images``."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"image": "data:image/png;base64,iVBORw0KGgo...", **_EXAMPLE}]
        }
    )

    inputs: _Item | Annotated[list[_Item], Field(fail_fast=True, min_length=1)] | None = Field(
        default=None,
        description="One item, or several: its inputs by the names that `/v1/models/{model}` "
        "gives. An image: base64 of PNG, JPEG or WebP, bare or as a data URL. A text: the text, "
        "its token ids, or an object of `text`, `prompt` and `truncate`. A tensor: nested lists of "
        "numbers.",
    )
    image: str | None = Field(default=None, description='Short for `"inputs": {"image": ...}`.')
    images: _Images | None = Field(
        default=None, min_length=1, description="Short for several such items."
    )


class ClassesOutput(BaseModel):
    """The answer of a task with classes."""

    label: str = Field(description="The most probable class.")
    probabilities: dict[str, float] = Field(description="Per class, summing to 1.")


class EmbeddingOutput(BaseModel):
    """The answer of a task that gives a vector."""

    embedding: list[float] = Field(description="Of length 1.")


class ScoreOutput(BaseModel):
    """The answer of a task that gives a number."""

    score: float


class ClassMapOutput(BaseModel):
    """The answer of a task that gives a class for each pixel."""

    labels: list[str] = Field(description="In the order of their numbers.")
    height: int
    width: int
    png: str = Field(description="A PNG file in base64: the number of the class in each pixel.")


class NumberMapOutput(BaseModel):
    """The answer of a task that gives numbers for each pixel."""

    channels: list[str]
    unit: str = Field(description="Of the numbers; empty where they have none.")
    height: int
    width: int
    values: str = Field(
        description="float32, little-endian, in base64: channel by channel, row by row."
    )


TaskOutput: TypeAlias = (
    ClassesOutput | EmbeddingOutput | ScoreOutput | ClassMapOutput | NumberMapOutput
)


class TaskReceipt(BaseModel):
    """What one task's answer is worth, as measured on held-out inputs."""

    metric: str
    score: float = Field(description="Of this subnet, as measured, in the metric.")
    expected: float = Field(
        description="The score with its noise smoothed out, which the search counts on."
    )
    retention: float = Field(description="Expected score over that of the largest subnet.")
    retention_stderr: float = Field(
        description="Standard error of the retention; 0 where it is not known."
    )
    n: int = Field(description="Inputs it was measured on.")
    stderr: float = Field(description="Standard error of the score.")
    measured: bool = Field(description="False if it was predicted from other subnets.")


class Milliseconds(BaseModel):
    """Where the time went, from the whole request read to the answer ready."""

    decode: float
    search: float
    queue: float = Field(description="Of the item that took longest.")
    run: float = Field(description="Of the batch of the item that took longest.")
    total: float
    predicted: float = Field(description="The total as predicted when the subnet was chosen.")


class PlanReceipt(BaseModel):
    """The subnet chosen and what is known about it."""

    model: str
    version: str
    subnet: dict[str, Value] = Field(description="The value chosen on each axis.")
    adapters: list[str] = Field(description="Of the inputs, each once; empty: none.")
    space: str | None = Field(
        description="Vectors may be compared where this id is equal; null: the answer is no vector."
    )
    macs: int = Field(description="Per item.")
    flops: int = Field(description="Per item, 2 x MACs.")
    bytes: int = Field(description="Of the weights that the subnet computes with.")
    fraction: float = Field(description="Of the MACs of the largest subnet for these tasks.")
    quality: float = Field(description="Preference-weighted mean of the tasks' retention.")
    quality_stderr: float = Field(description="Its standard error; 0 where it is not known.")
    floor: float | None = Field(
        description="What `min_quality` was compared with: the quality, less what is in doubt. "
        "None where the request named none."
    )
    gap: float = Field(description="Bound on what was lost to the optimum; 0 is proven optimal.")
    preferences: dict[str, float] = Field(description="As used, summing to 1.")
    predicted_run_ms: float | None = Field(
        description="For running the inputs together, without waiting."
    )
    tasks: dict[str, TaskReceipt]


class Receipt(PlanReceipt):
    """The receipt of a run."""

    total_flops: int = Field(
        description="For all items of the request; what they share counts once."
    )
    shared_flops: int = Field(
        description="Of these, what was computed once for this and other equal inputs."
    )
    slimmed: bool = Field(description="Whether a better subnet would have run if nobody waited.")
    backend: str
    batch_sizes: list[int] = Field(description="Of the batch each item was run in.")
    milliseconds: Milliseconds


class PlanAnswer(BaseModel):
    """Answer of `/v1/plan`."""

    receipt: PlanReceipt


class InferAnswer(BaseModel):
    """Answer of `/v1/infer`."""

    outputs: list[dict[str, TaskOutput]] = Field(description="Per item, in order, by task.")
    receipt: Receipt


class ErrorFields(BaseModel):
    """What is wrong."""

    type: str
    message: str
    field: str | None = Field(description="For example `budget.flops` or `images[3]`.")
    request_id: str
    feasible: float | None = Field(
        default=None, description="With `infeasible_budget`: the nearest value that can be met."
    )
    details: list[dict[str, str | None]] | None = Field(
        default=None, description="With `invalid_request`: every fault found."
    )


class ErrorAnswer(BaseModel):
    """Body of every error."""

    error: ErrorFields

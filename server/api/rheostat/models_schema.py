"""The JSON of `/v1/models`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field

from models.space import Value


class ModelEntry(BaseModel):
    """One model, in short."""

    id: str = Field(description="A name that requests may use.")
    object: Literal["model"] = "model"
    root: str = Field(description="The model's own name, which answers have.")
    created: int = Field(description="When its checkpoint was written, Unix time.")
    owned_by: str = "rheostat"
    family: str
    version: str
    tasks: list[str]
    num_subnets: int = Field(description="Size of the product of its axes.")
    matryoshka_dimensions: list[int] | None = Field(
        description="What `dimensions` may be; null where vectors are not cut, or there are none."
    )


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

    kind: str = Field(description="classes, embedding, score or map.")
    labels: list[str]
    channels: list[str] = Field(description="Of a map of numbers.")
    unit: str = Field(description="Of a map of numbers.")
    metric: str
    score: float = Field(description="Of the largest subnet, in the metric.")


class ImageEntry(BaseModel):
    """What an image may be and what becomes of it."""

    kind: Literal["image"]
    required: bool = Field(description="Whether every item must have it.")
    formats: list[str]
    height: int
    width: int
    resize: str
    mean: list[float] = Field(description="Subtracted per channel, of values in 0..1.")
    std: list[float] = Field(description="Divided by, per channel.")


class TextEntry(BaseModel):
    """What a text may be and what it is put into."""

    kind: Literal["text"]
    required: bool = Field(description="Whether every item must have it.")
    max_length: int = Field(description="Most tokens, special tokens included.")
    prompts: dict[str, str] = Field(description="Templates by name.")
    default_prompt: str | None


class TensorEntry(BaseModel):
    """What numbers may be given."""

    kind: Literal["tensor"]
    required: bool = Field(description="Whether every item must have it.")
    shape: list[int] = Field(description="Of one input, or of one entry of a sequence.")
    max_length: int | None = Field(description="Most entries; null where it is no sequence.")
    least: float | None = Field(description="No number may be below; null for any.")
    most: float | None = Field(description="No number may be above; null for any.")


class AdapterEntry(BaseModel):
    """Which adapters may be named."""

    kind: Literal["adapter"]
    required: bool = Field(description="Whether every item must have it.")
    values: list[str] = Field(description="Their names.")


InputEntry: TypeAlias = Annotated[
    ImageEntry | TextEntry | TensorEntry | AdapterEntry, Field(discriminator="kind")
]


class CostEntry(BaseModel):
    """Compute for one input, all tasks; for text, of the greatest length. Bytes of weights."""

    macs: int
    flops: int
    bytes: int


class AuditEntry(BaseModel):
    """What was seen of a subnet when answers were compared with the whole model's."""

    samples: int = Field(description="Requests compared.")
    agreement: float = Field(
        description="Lately: cosine with the whole model's vector, share of equal classes, or rank "
        "correlation of scores."
    )
    agreement_low: float = Field(description="Lower confidence bound.")
    agreement_high: float = Field(description="Upper confidence bound.")
    expected: float | None = Field(
        description="The same on the table's data; null where the table does not have it."
    )
    rank_agreement: float | None = Field(description="Of lists; null if there was none.")
    kept: float | None = Field(
        description="Part of `quality` that is left by the lower bound; null without `expected`."
    )


class FrontEntry(CostEntry):
    """A subnet that no other beats in both cost and quality."""

    fraction: float
    quality: float
    subnet: dict[str, Value]
    space: str | None = Field(
        description="Vectors may be compared where this id is equal; null: the answer is no vector."
    )
    audit: AuditEntry | None = Field(description="null where nothing was compared.")


class SpaceEntry(BaseModel):
    """Vectors that may be compared with one another."""

    space: str
    choices: dict[str, Value] = Field(
        description="What subnets of this space agree on; they may differ in all other axes."
    )
    num_subnets: int = Field(description="Of the table.")


class ModelDetail(ModelEntry):
    """One model, in full."""

    axes: list[AxisEntry]
    task_details: dict[str, TaskEntry]
    inputs: dict[str, InputEntry] = Field(description="By name.")
    cheapest: CostEntry
    largest: CostEntry
    spaces: list[SpaceEntry] = Field(description="Of vectors; empty where there are none.")
    front: list[FrontEntry] = Field(description="Equal weights, cheapest first.")

"""What the server answers about its models, with the names of its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rheostat.answers import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model, in short.

    Attributes:
        id: A name that requests may use.
        object: Always ``model``.
        root: The model's own name, which answers have.
        created: When its checkpoint was written, Unix time.
        owned_by: Who serves it.
        family: Of elastic models.
        version: Of the model.
        tasks: What it can be asked.
        num_subnets: Size of the product of its axes.
        matryoshka_dimensions: What ``dimensions`` may be; None where vectors are not cut, or there
            are none.
    """

    id: str
    object: Literal["model"]
    root: str
    created: int
    owned_by: str
    family: str
    version: str
    tasks: list[str]
    num_subnets: int
    matryoshka_dimensions: list[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelList:
    """What the server answers to `Client.models`, which returns the list in it."""

    data: list[ModelEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisEntry:
    """One thing that can be chosen.

    Attributes:
        name: Of the axis.
        values: Cheapest first.
        kind: What choosing a value changes.
        when: When a value may be chosen.
        task: The only task whose answer depends on it; None: all.
    """

    name: str
    values: list[Value]
    kind: str
    when: str
    task: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """One question the model answers.

    Attributes:
        kind: Of answer.
        labels: Its classes.
        channels: Of a map of numbers, what each is.
        unit: Of a map of numbers.
        metric: In which it is measured.
        score: Of the largest subnet, in the metric.
    """

    kind: str
    labels: list[str]
    channels: list[str]
    unit: str
    metric: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEntry:
    """What an image may be and what becomes of it.

    Attributes:
        kind: Always ``image``.
        required: Whether every item must have it.
        formats: Of files.
        height: In pixels, as the model sees it.
        width: Likewise.
        resize: How an image becomes that large.
        mean: Subtracted per channel, of values in 0..1.
        std: Divided by, per channel.
    """

    kind: Literal["image"]
    required: bool
    formats: list[str]
    height: int
    width: int
    resize: str
    mean: list[float]
    std: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEntry:
    """What a text may be and what it is put into.

    Attributes:
        kind: Always ``text``.
        required: Whether every item must have it.
        max_length: Most tokens, special tokens included.
        prompts: Templates by name.
        default_prompt: Name of the one used unasked, if any.
    """

    kind: Literal["text"]
    required: bool
    max_length: int
    prompts: dict[str, str]
    default_prompt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """What numbers may be given.

    Attributes:
        kind: Always ``tensor``.
        required: Whether every item must have it.
        shape: Of one input, or of one entry of a sequence.
        max_length: Most entries; None where it is no sequence.
        least: No number may be below; None for any.
        most: No number may be above; None for any.
    """

    kind: Literal["tensor"]
    required: bool
    shape: list[int]
    max_length: int | None
    least: float | None
    most: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """Which adapters may be named.

    Attributes:
        kind: Always ``adapter``.
        required: Whether every item must have it.
        values: Their names.
    """

    kind: Literal["adapter"]
    required: bool
    values: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEntry:
    """Compute for one input, all tasks; for text, of the greatest length.

    Attributes:
        macs: Multiply-accumulates.
        flops: 2 x MACs.
        bytes: Of weights.
    """

    macs: int
    flops: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What was seen of a subnet when answers were compared with the whole model's.

    Attributes:
        samples: Requests compared.
        agreement: Lately: cosine with the whole model's vector, share of equal classes, or rank
            correlation of scores.
        agreement_low: Lower confidence bound.
        agreement_high: Upper confidence bound.
        expected: The same on the table's data; None where the table does not have it.
        rank_agreement: Of lists; None if there was none.
        kept: Part of the quality that is left by the lower bound; None without ``expected``.
    """

    samples: int
    agreement: float
    agreement_low: float
    agreement_high: float
    expected: float | None
    rank_agreement: float | None
    kept: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEntry(CostEntry):
    """A subnet that no other beats in both cost and quality.

    Attributes:
        fraction: Of the MACs of the largest subnet.
        quality: Mean of the tasks' retention.
        subnet: The value on each axis.
        space: Vectors may be compared where this id is equal; None where the answer is no vector.
        audit: What audits saw; None where nothing was compared.
    """

    fraction: float
    quality: float
    subnet: dict[str, Value]
    space: str | None
    audit: AuditEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceEntry:
    """Vectors that may be compared with one another.

    Attributes:
        space: Id.
        choices: What subnets of this space agree on; they may differ in all other axes.
        num_subnets: Of the table.
    """

    space: str
    choices: dict[str, Value]
    num_subnets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDetail(ModelEntry):
    """One model, in full.

    Attributes:
        axes: What can be chosen.
        task_details: What it can be asked, by task.
        inputs: What it takes, by name.
        cheapest: The cost of the cheapest subnet.
        largest: The cost of the largest subnet.
        spaces: Of vectors; empty where there are none.
        front: The best subnets for equal weights, cheapest first.
    """

    axes: list[AxisEntry]
    task_details: dict[str, TaskEntry]
    inputs: dict[str, ImageEntry | TextEntry | TensorEntry | AdapterEntry]
    cheapest: CostEntry
    largest: CostEntry
    spaces: list[SpaceEntry]
    front: list[FrontEntry]

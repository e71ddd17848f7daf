"""What the server answers, with the names of its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Value: TypeAlias = int | float | str  # on an axis


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutput:
    """One task's answer for one item; what its kind of task does not give is empty.

    Attributes:
        label: Of a task with classes, the most probable one.
        probabilities: Of a task with classes, per class, summing to 1.
        embedding: Of a task that gives a vector, of length 1.
        score: Of a task that gives a number; None elsewhere.
        labels: Of a map of classes, in the order of their numbers.
        png: Of a map of classes, a PNG file in base64: the number of the class in each pixel.
        channels: Of a map of numbers, what each is.
        unit: Of a map of numbers.
        values: Of a map of numbers, float32, little-endian, in base64: channel by channel, row by
            row.
        height: Of a map, in pixels.
        width: Of a map, in pixels.
    """

    label: str = ""
    probabilities: dict[str, float] = field(default_factory=dict)
    embedding: list[float] = field(default_factory=list)
    score: float | None = None
    labels: list[str] = field(default_factory=list)
    png: str = ""
    channels: list[str] = field(default_factory=list)
    unit: str = ""
    values: str = ""
    height: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReceipt:
    """What one task's answer is worth, as measured on held-out inputs.

    Attributes:
        metric: In which the scores are.
        score: Of this subnet, as measured.
        expected: The score with its noise smoothed out, which the search counts on.
        retention: Expected score over that of the largest subnet.
        retention_stderr: Standard error of the retention; 0 where it is not known.
        n: Inputs it was measured on.
        stderr: Standard error of the score.
        measured: False if it was predicted from other subnets.
    """

    metric: str
    score: float
    expected: float
    retention: float
    retention_stderr: float
    n: int
    stderr: float
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Milliseconds:
    """Where the time went, from the whole request read to the answer ready.

    Attributes:
        decode: Reading images or texts.
        search: Choosing the subnet.
        queue: Of the input that took longest.
        run: Of the batch of the input that took longest.
        total: Of all.
        predicted: The total as predicted when the subnet was chosen.
    """

    decode: float
    search: float
    queue: float
    run: float
    total: float
    predicted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReceipt:
    """The subnet chosen and what is known about it.

    Attributes:
        model: Its own name.
        version: Of the model.
        subnet: The value chosen on each axis.
        adapters: Of the inputs, each once; empty where the model's own weights ran alone.
        space: Vectors may be compared where this id is equal; None where the answer is no vector.
        macs: Multiply-accumulates per input.
        flops: Per input, 2 x MACs.
        bytes: Of the weights that the subnet computes with.
        fraction: Of the MACs of the largest subnet for these tasks.
        quality: Preference-weighted mean of the tasks' retention.
        quality_stderr: Its standard error; 0 where it is not known.
        floor: What ``min_quality`` was compared with: the quality, less what is in doubt; None
            where the request named none.
        gap: Bound on what was lost to the optimum; 0 is proven optimal.
        preferences: As used, summing to 1.
        predicted_run_ms: For running the inputs together, without waiting; None if not known.
        tasks: What each task's answer is worth.
    """

    model: str
    version: str
    subnet: dict[str, Value]
    adapters: list[str]
    space: str | None
    macs: int
    flops: int
    bytes: int
    fraction: float
    quality: float
    quality_stderr: float
    floor: float | None
    gap: float
    preferences: dict[str, float]
    predicted_run_ms: float | None
    tasks: dict[str, TaskReceipt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt(PlanReceipt):
    """The receipt of a run.

    Attributes:
        total_flops: For all inputs of the request.
        shared_flops: Of these, what was computed once for this and other equal inputs.
        slimmed: Whether a better subnet would have run if nobody waited.
        backend: What computed it.
        batch_sizes: Of the batch each input was run in.
        milliseconds: Where the time went.
    """

    total_flops: int
    shared_flops: int
    slimmed: bool
    backend: str
    batch_sizes: list[int]
    milliseconds: Milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class InferAnswer:
    """Answer of `Client.infer`.

    Attributes:
        outputs: Per image, in order, by task.
        receipt: What ran, and what it cost.
    """

    outputs: list[dict[str, TaskOutput]]
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAnswer:
    """What the server answers to `Client.plan`, which returns the receipt in it."""

    receipt: PlanReceipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens read, special tokens included."""

    prompt_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Answer of `Client.embed`.

    Attributes:
        vectors: One for each text, in order, of length 1. Each is an ``array.array`` of float32;
            ``numpy.array(vectors)`` has shape [texts, dimensions].
        usage: Tokens read.
        receipt: What ran, and what it cost.
    """

    vectors: list[Sequence[float]]
    usage: Usage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingEntry:
    """One vector, as base64 of little-endian float32."""

    embedding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsAnswer:
    """What the server answers to `Client.embed`, which returns `Embeddings`."""

    data: list[EmbeddingEntry]
    usage: Usage
    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentText:
    """A document that was asked to be repeated."""

    text: str | None = None

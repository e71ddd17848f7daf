"""Answers about classes that texts name; names are those of the server's JSON."""

from __future__ import annotations

from dataclasses import dataclass

from rheostat.answers import Receipt, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class NearLabel:
    """A label and how near it is.

    Attributes:
        label: As sent, or the id of the index's document.
        index: Its place among these.
        score: Cosine with the input, -1..1.
    """

    label: str
    index: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifiedInput:
    """One text.

    Attributes:
        index: Its place in the request.
        labels: The nearest first.
    """

    index: int
    labels: list[NearLabel]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyReceipt(Receipt):
    """The receipt of the texts, and what labels took.

    Attributes:
        label_flops: Spent on labels; 0 where all vectors were kept.
        labels_kept: Labels whose vectors were kept from before.
    """

    label_flops: int
    labels_kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyAnswer:
    """Answer of `Client.classify`.

    Attributes:
        model: The model's own name.
        data: One entry a text, in order.
        usage: Tokens read.
        receipt: What ran, and what it cost.
    """

    model: str
    data: list[ClassifiedInput]
    usage: Usage
    receipt: ClassifyReceipt

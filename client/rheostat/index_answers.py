"""Answers about documents that the server keeps; names are those of its JSON."""

from __future__ import annotations

from dataclasses import dataclass

from rheostat.answers import Value
from rheostat.ranking_answers import RankingReceipt


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryQuality:
    """What queries by one subnet find of what those by the best one do.

    Attributes:
        subnet: Of the query.
        flops: Of a query of the mean length of those tried.
        overlap: Mean part of the best subnet's first ten that are among its own first ten.
        stderr: Standard error over the queries.
        n: Queries: sentences of the documents.
    """

    subnet: dict[str, Value]
    flops: int
    overlap: float
    stderr: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDetail:
    """An index.

    Attributes:
        name: Its own.
        model: That made its vectors.
        space: Id of their space.
        subnet: That made them.
        adapter: Of the model, that they are of; empty for none.
        documents: Their number.
        bytes: Held, about.
        created: Unix time.
        flops: That making the vectors took.
        queries: Measured when it was made, cheapest first.
    """

    name: str
    model: str
    space: str
    subnet: dict[str, Value]
    adapter: str
    documents: int
    bytes: int
    created: int
    flops: int
    queries: list[QueryQuality]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexList:
    """Answer of `Client.indexes`, before it is unpacked."""

    indexes: list[IndexDetail]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """A document near a query.

    Attributes:
        id: Its own.
        score: Cosine, or of a model that compares two texts 0..1.
        document: Its text, where that was asked for.
    """

    id: str
    score: float
    document: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborsAnswer:
    """Answer of `Client.neighbors`.

    Attributes:
        id: Of the request.
        results: Nearest first.
        quality: What was measured of such queries; None if nothing was.
        receipt: What ran, and what it cost.
    """

    id: str
    results: list[Neighbor]
    quality: QueryQuality | None
    receipt: RankingReceipt

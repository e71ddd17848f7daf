"""Answers about documents that the server keeps; names are those of its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
        is_fitted: Whether the query runs no layer and its tokens' vectors are the index's own.
    """

    subnet: dict[str, Value]
    flops: int
    overlap: float
    stderr: float
    n: int
    is_fitted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """What two ways find of the nearest under a model that compares two texts.

    Attributes:
        k: Nearest documents wanted.
        calls: Pairs compared.
        cur: Mean part that CUR finds.
        listed: Mean part that re-ranking the nearest by vectors finds.
        stderr: Standard error of the difference over queries.
        n: Queries.
    """

    k: int
    calls: int
    cur: float
    listed: float
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
        pair_model: Compares two texts, and was measured with it; None if none was.
        duels: What was measured.
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
    pair_model: str | None
    duels: list[Duel]


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
        found_by: The vectors, a list by vectors that a model re-ranks, or CUR.
        duel: What was measured of such searches by that model; None if nothing was.
        receipt: What ran, and what it cost.
    """

    id: str
    results: list[Neighbor]
    quality: QueryQuality | None
    found_by: Literal["vectors", "list", "cur"]
    duel: Duel | None
    receipt: RankingReceipt

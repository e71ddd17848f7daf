"""Sentences of documents as queries, and what those by cheaper subnets find."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

import numpy as np
from torch import Tensor

from models.space import Value
from search.find import Selection
from server.indexes.embedding import embedded, passage_of
from server.indexes.index import QueryQuality
from server.question import Question
from server.ranking import task_of
from server.served import Served
from server.service import Service

_QUERIES = 48
_FIRST = 10  # neighbours that are compared
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LEAST_CHARS, _MOST_CHARS = 20, 400  # of a sentence that may be a query


class Sentence(NamedTuple):
    """A sentence of a document."""

    document: int
    text: str


class Findings(NamedTuple):
    """What queries find.

    Attributes:
        qualities: Of each subnet, cheapest first.
        whole: The nearest of each query by the best subnet, shape [queries, first].
    """

    qualities: list[QueryQuality]
    whole: Tensor


async def measured(
    service: Service,
    served: Served,
    question: Question,
    best: Selection,
    queries: Sequence[Sentence],
    vectors: Tensor,
) -> Findings:
    """Return what queries by each rung of the space find of what those by the best one do.

    The documents that they are from lie near by any subnet, so what is compared is the rest of the
    neighbours as well.

    Args:
        service: Runs the model.
        served: The model.
        question: By whom and with which class.
        best: The subnet of the documents' vectors.
        queries: Sentences of some of the documents.
        vectors: Of all documents, of length 1, shape [documents, dim].

    Raises:
        RheostatError: As `Service.infer`.
    """
    task = task_of(served, best, "embedding")
    resident = service.variants.resident(served)
    ladder = service.pacing.ladder(served, best, task, resident, by_time=False)
    passages = [passage_of(one.text) for one in queries]
    found = {}
    for rung in ladder.rungs:
        if served.space_of(rung.subnet) == served.space_of(best.subnet):
            one = replace(question, fixed=dict(rung.subnet), side="query")
            own, selection, flops = await embedded(service, served, one, passages)
            nearest = await nearest_of(vectors, own)
            found[rung.subnet] = (selection, flops // len(queries), nearest)
    *_, (_, _, whole) = found.values()
    return Findings(
        [
            quality_of(selection.subnet, flops, nearest, whole)
            for selection, flops, nearest in found.values()
        ],
        whole,
    )


async def nearest_of(vectors: Tensor, queries: Tensor) -> Tensor:
    """Return the positions of the vectors nearest to each query that are compared."""
    return await asyncio.to_thread(first_of, vectors, queries, min(_FIRST, len(vectors)))


def quality_of(
    subnet: Mapping[str, Value],
    flops: int,
    nearest: Tensor,
    whole: Tensor,
    is_fitted: bool = False,
) -> QueryQuality:
    """Return which part of the whole model's nearest documents is among others' nearest.

    Args:
        subnet: Of the queries.
        flops: Of one.
        nearest: Positions of the documents, shape [queries, first].
        whole: Likewise, by the best subnet.
        is_fitted: As in `QueryQuality`.
    """
    pairs = zip(nearest.tolist(), whole.tolist(), strict=True)
    each = np.array([len(set(own) & set(best)) / len(best) for own, best in pairs])
    stderr = float(each.std(ddof=1) / np.sqrt(len(each)))
    return QueryQuality(dict(subnet), flops, float(each.mean()), stderr, len(each), is_fitted)


def first_of(vectors: Tensor, queries: Tensor, count: int) -> Tensor:
    """Return the positions of the nearest vectors of each query, shape [queries, count]."""
    return (queries @ vectors.T).topk(count).indices


def drawn(texts: Sequence[str], rng: Random) -> list[Sentence]:
    """Return sentences of documents drawn at random, one of each."""
    found = []
    for i in rng.sample(range(len(texts)), min(_QUERIES, len(texts))):
        own = sentences_of(texts[i])
        found.append(Sentence(i, rng.choice(own) if own else texts[i][:_MOST_CHARS]))
    return found


def sentences_of(text: str) -> list[str]:
    """Return the sentences at the beginning of a text that may be queries."""
    return [
        one
        for one in _SENTENCE.split(text[: _MOST_CHARS * 8])
        if _LEAST_CHARS <= len(one) <= _MOST_CHARS
    ]

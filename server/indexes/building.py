"""Making an index: vectors by the whole model, and what cheaper queries find of them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from search.budget import Budget
from search.find import Selection
from server.admitted import Answer
from server.clients.caller import Caller
from server.errors import InvalidRequestError
from server.indexes.index import Index, QueryQuality
from server.inputs.sources import Passage
from server.question import Question
from server.ranking import task_of
from server.served import Served
from server.service import Service

BULK = 999  # the lowest class that a request can have: whoever waits goes first
_CHUNK = 64  # documents that are inside the engine at once
_QUERIES = 48
_FIRST = 10  # neighbours that are compared
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LEAST_CHARS, _MOST_CHARS = 20, 400  # of a sentence that may be a query


async def build(
    service: Service,
    served: Served,
    caller: Caller,
    name: str,
    documents: Sequence[tuple[str, str]],
    adapter: str | None = None,
) -> Index:
    """Embed documents and measure queries.

    Args:
        service: Runs the model, behind all that somebody waits for.
        served: The model.
        caller: Whose the index will be.
        name: Of the index.
        documents: Their ids and texts; what is too long is cut at its end.
        adapter: As in `Question`.

    Raises:
        RheostatError: As `Service.infer`.
    """
    passages = [
        Passage(f"documents[{i}].text", text, truncate="right")
        for i, (_, text) in enumerate(documents)
    ]
    question = Question(
        None,
        None,
        Budget(strict=True),
        served.whole_outputs,
        caller,
        priority=BULK,
        adapter=adapter,
    )
    adapters = service.adapters(served, question)
    vectors, selection, flops = await _embedded(service, served, question, passages)
    space = served.space_of(selection.subnet, adapters)
    if space is None:
        raise InvalidRequestError(f"model={served.name!r} gives no vectors", "model")
    texts = [text for _, text in documents]
    queries = await _measured(service, served, question, selection, texts, vectors)
    return Index(
        caller.client,
        name,
        served.name,
        space,
        selection.subnet,
        int(time.time()),
        flops,
        queries,
        tuple(one for one, _ in documents),
        tuple(texts),
        vectors,
        *adapters,
    )


async def _embedded(
    service: Service, served: Served, question: Question, passages: Sequence[Passage]
) -> tuple[Tensor, Selection, int]:
    """Return the vectors of texts, their subnet and what they took, some texts at a time."""
    parts, flops = [], 0
    answer: Answer | None = None
    for first in range(0, len(passages), _CHUNK):
        items = served.named("text", passages[first : first + _CHUNK])
        fixed = question if answer is None else of_subnet(question, answer.selection)
        answer = await service.infer(served, fixed, items)
        task = task_of(served, answer.selection, "embedding")
        parts += [outputs[task] for outputs in answer.outputs]
        flops += answer.flops
    assert answer is not None, "there are texts"
    return torch.stack(parts).float().cpu(), answer.selection, flops


def of_subnet(question: Question, selection: Selection) -> Question:
    """Return a question that only one subnet answers."""
    return replace(question, fixed=dict(selection.subnet))


async def _measured(
    service: Service,
    served: Served,
    question: Question,
    best: Selection,
    texts: Sequence[str],
    vectors: Tensor,
) -> list[QueryQuality]:
    """Return what queries by each rung of the space find of what those by the best one do.

    Queries are sentences of the documents, at random. The documents they are from lie near by any
    subnet, so what is compared is the rest of the neighbours as well.
    """
    queries = list(_sentences(texts))
    if len(queries) < 2:
        return []
    task = task_of(served, best, "embedding")
    resident = service.variants.resident(served)
    ladder = service.pacing.ladder(served, best, task, resident, by_time=False)
    passages = [Passage("documents", one, truncate="right") for one in queries]
    found = {}
    for rung in ladder.rungs:
        if served.space_of(rung.subnet) == served.space_of(best.subnet):
            one = replace(question, fixed=dict(rung.subnet), side="query")
            own, selection, flops = await _embedded(service, served, one, passages)
            nearest = await asyncio.to_thread(first_of, vectors, own, min(_FIRST, len(vectors)))
            found[rung.subnet] = (selection, flops // len(queries), nearest)
    *_, (_, _, whole) = found.values()
    return [
        _quality(selection, flops, nearest, whole) for selection, flops, nearest in found.values()
    ]


def _quality(selection: Selection, flops: int, nearest: Tensor, whole: Tensor) -> QueryQuality:
    pairs = zip(nearest.tolist(), whole.tolist(), strict=True)
    each = np.array([len(set(own) & set(best)) / len(best) for own, best in pairs])
    stderr = float(each.std(ddof=1) / np.sqrt(len(each)))
    return QueryQuality(dict(selection.subnet), flops, float(each.mean()), stderr, len(each))


def first_of(vectors: Tensor, queries: Tensor, count: int) -> Tensor:
    """Return the positions of the nearest vectors of each query, shape [queries, count]."""
    return (queries @ vectors.T).topk(count).indices


def _sentences(texts: Sequence[str]) -> Iterator[str]:
    """Yield sentences of documents drawn at random, one of each."""
    rng = Random(0)
    for i in rng.sample(range(len(texts)), min(_QUERIES, len(texts))):
        found = [
            one
            for one in _SENTENCE.split(texts[i][: _MOST_CHARS * 8])
            if _LEAST_CHARS <= len(one) <= _MOST_CHARS
        ]
        yield rng.choice(found) if found else texts[i][:_MOST_CHARS]

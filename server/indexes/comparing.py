"""What a model that compares two texts says of queries and all documents of an index.

With that a later query's nearest documents are found from few of its comparisons, without vectors
(`search.anncur`), or not: both ways are tried on queries that were held back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from search.anncur import Anchors, duels, num_anchors
from search.lengths import IntArray
from server.errors import InvalidRequestError
from server.indexes.comparisons import Comparisons
from server.indexes.embedding import CHUNK
from server.indexes.queries import Sentence
from server.inputs.sources import Passage
from server.question import Question
from server.ranking import Ranking, Wish
from server.rerank import rerank
from server.served import Served
from server.service import Service

_MOST_PAIRS = 20_000  # that making an index compares
_FEWEST, _HELD_BACK = 8, 0.25  # queries, and the part on which both ways are tried
_AT_ONCE = Wish(in_stages=False)


async def compared(
    service: Service,
    scorer: Served,
    question: Question,
    texts: Sequence[str],
    queries: Sequence[Sentence],
    cosines: Tensor,
) -> Comparisons:
    """Compare queries with all documents, and both ways to the nearest.

    Args:
        service: Runs the model, behind all that somebody waits for.
        scorer: Compares two texts.
        question: By whom and with which class.
        texts: Of the documents.
        queries: Sentences of some of them.
        cosines: Of the queries' vectors with the documents', shape [queries, documents].

    Raises:
        InvalidRequestError: If there are too many documents, or too few.
        RheostatError: As `Service.infer`.
    """
    count = min(len(queries), _MOST_PAIRS // len(texts))
    if count < _FEWEST:
        raise InvalidRequestError(
            f"documents: {len(texts)} with pair_model; {_FEWEST} to {_MOST_PAIRS // _FEWEST} can "
            "be compared",
            "documents",
        )
    rows = []
    for one in queries[:count]:
        row: list[float] = []
        for first in range(0, len(texts), CHUNK):
            some = range(first, min(first + CHUNK, len(texts)))
            query = Passage("documents", one.text, truncate="right")
            ranking = await scored(service, scorer, question, query, texts, some)
            row += ranking.scores
        rows.append(row)
    scores = torch.tensor(rows)
    held_back = max(2, round(_HELD_BACK * count))
    known, tried = scores[:-held_back].numpy(), scores[-held_back:].numpy()
    near = cosines[:count][-held_back:].numpy()
    found = await asyncio.to_thread(duels, known, tried, near)
    return Comparisons(scorer.name, scores[:-held_back], found)


async def scored(
    service: Service,
    scorer: Served,
    question: Question,
    query: Passage,
    texts: Sequence[str],
    positions: Sequence[int],
) -> Ranking:
    """Return the ranking of documents at some positions by all of a model."""
    documents = [
        Passage(f"ids[{i}]", texts[at], truncate="right") for i, at in enumerate(positions)
    ]
    whole = replace(question, fixed={**question.fixed, **scorer.whole_outputs})
    return await rerank(service, scorer, whole, query, documents, _AT_ONCE)


async def by_cur(
    service: Service,
    scorer: Served,
    question: Question,
    query: Passage,
    texts: Sequence[str],
    known: Comparisons,
    calls: int,
) -> tuple[list[int], Ranking]:
    """Return the documents that CUR finds for a query, and their ranking by the scorer.

    Args:
        service: Runs the model.
        scorer: Compares two texts.
        question: What it may spend.
        query: Compared.
        texts: Of all documents.
        known: Of the index.
        calls: Pairs that are compared.

    Raises:
        RheostatError: As `server.rerank.rerank`.
    """
    anchors = await asyncio.to_thread(Anchors.of, known.known.numpy(), num_anchors(calls))
    first = [int(i) for i in anchors.items]
    ranked = await scored(service, scorer, question, query, texts, first)
    own = torch.tensor(ranked.scores).numpy()
    likely: IntArray = anchors.likely(own, calls - len(first))
    rest = [int(i) for i in likely]
    if not rest:
        return first, ranked
    more = await scored(service, scorer, question, query, texts, rest)
    scores = [*ranked.scores, *more.scores]
    seconds = {stage: ranked.seconds[stage] + more.seconds[stage] for stage in more.seconds}
    return [*first, *rest], replace(
        more,
        order=sorted(range(len(scores)), key=lambda i: -scores[i]),
        scores=scores,
        macs=ranked.macs + more.macs,
        num_tokens=ranked.num_tokens + more.num_tokens,
        seconds=seconds,
    )

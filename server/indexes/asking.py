"""Ranking documents of an index, and finding the nearest: by their vectors, then perhaps closer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from models.vectors import comparable_choices
from server.admitted import Answer
from server.choose import Choice
from server.errors import DeadlineError, InvalidRequestError, shown
from server.indexes.building import first_of
from server.indexes.index import Index
from server.inputs.sources import Passage
from server.question import Question
from server.ranking import Ranking, Wish, task_of
from server.rerank import as_they_came, rerank
from server.served import Served
from server.service import Service

_POOL = 100  # nearest documents that another model ranks, or as many as are wanted


@dataclass(frozen=True)
class Scorer:
    """A model that ranks what vectors found.

    Attributes:
        served: Compares two texts.
        question: What it may spend.
        wish: How it ranks.
    """

    served: Served
    question: Question
    wish: Wish = Wish()  # noqa: RUF009  # immutable


async def rank_stored(
    service: Service,
    served: Served,
    index: Index,
    question: Question,
    query: Passage,
    positions: Sequence[int],
    scorer: Scorer | None = None,
) -> tuple[Served, Ranking]:
    """Rank documents of an index by their vectors, and then as closely as a scorer's budget allows.

    Args:
        service: Runs the models.
        served: The index's model.
        index: Has the documents.
        question: What the query's vector may cost.
        query: Compared with all.
        positions: Of the documents.
        scorer: None to go by vectors alone.

    Returns:
        The model that had the last word, and the ranking.

    Raises:
        RheostatError: As `Service.infer` and `rerank`.
    """
    begun = service.clock()
    try:
        answer, vector = await _vector(service, served, index, question, query)
    except DeadlineError:
        shapes = served.inputs.plan_shapes()
        selection = service.select(served, in_space(served, index, question).of_the_best(), shapes)
        taken_s = service.clock() - begun
        choice = Choice(selection, False, taken_s)
        return served, as_they_came(choice, len(positions), None, begun, taken_s)
    scores: list[float] = (index.vectors[list(positions)] @ vector).tolist()
    if scorer is not None:
        ranking = await _closer(service, index, query, positions, scores, scorer)
        return scorer.served, ranking
    return served, _by_vectors(answer, scores)


async def nearest(
    service: Service,
    served: Served,
    index: Index,
    question: Question,
    query: Passage,
    count: int,
    scorer: Scorer | None = None,
) -> tuple[list[int], Ranking]:
    """Return the positions of the documents nearest to a query, and their ranking among these.

    Args:
        service: Runs the models.
        served: The index's model.
        index: Has the documents.
        question: What the query's vector may cost.
        query: Compared with all.
        count: Documents wanted; a scorer ranks 100 or more of the nearest.
        scorer: None to go by vectors alone.

    Raises:
        RheostatError: As `rank_stored`.
        DeadlineError: If the query's vector was not there in time.
    """
    answer, vector = await _vector(service, served, index, question, query)
    pool = min(len(index), count if scorer is None else max(count, _POOL))
    (found,) = (await asyncio.to_thread(first_of, index.vectors, vector[None], pool)).tolist()
    scores: list[float] = (index.vectors[found] @ vector).tolist()
    if scorer is None:
        return found, _by_vectors(answer, scores)
    return found, await _closer(service, index, query, found, scores, scorer)


async def _vector(
    service: Service, served: Served, index: Index, question: Question, query: Passage
) -> tuple[Answer, Tensor]:
    """Return the answer for a query in the index's space, and its vector."""
    question = in_space(served, index, question)
    answer = await service.infer(served, question, served.named("text", [query]))
    task = task_of(served, answer.selection, "embedding")
    return answer, answer.outputs[0][task].float().cpu()


def in_space(served: Served, index: Index, question: Question) -> Question:
    """Return a question that only subnets of the index's space answer.

    Args:
        served: The index's model.
        index: Has vectors of it.
        question: Of a text on the other side than the documents.

    Raises:
        InvalidRequestError: If the model has no such space any more.
    """
    if question.adapter not in (None, index.adapter):
        raise InvalidRequestError(
            f"adapter={shown(question.adapter)}: index {shown(index.name)} has vectors of "
            f"{shown(index.adapter)}",
            "adapter",
        )
    space, adapters = served.elastic.space, (index.adapter,) if index.adapter else ()
    if not space.has(index.subnet) or served.space_of(index.subnet, adapters) != index.space:
        raise InvalidRequestError(
            f"index {shown(index.name)} has vectors of other weights than model={served.name!r} "
            "now; make it again",
            "index",
        )
    fixed = comparable_choices(served.elastic, index.subnet)
    return replace(question, fixed=fixed, side="query", adapter=index.adapter)


async def _closer(
    service: Service,
    index: Index,
    query: Passage,
    positions: Sequence[int],
    scores: Sequence[float],
    scorer: Scorer,
) -> Ranking:
    documents = [
        Passage(f"ids[{i}]", index.texts[at], truncate="right") for i, at in enumerate(positions)
    ]
    wish = replace(scorer.wish, known=scores)
    return await rerank(service, scorer.served, scorer.question, query, documents, wish)


def _by_vectors(answer: Answer, scores: Sequence[float]) -> Ranking:
    return Ranking(
        answer.choice,
        sorted(range(len(scores)), key=lambda i: -scores[i]),
        list(scores),
        "cosine",
        macs=answer.flops // 2,
        num_tokens=sum(answer.num_tokens),
        seconds=answer.seconds,
    )

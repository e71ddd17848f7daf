"""Ranking documents of an index, and finding the nearest: by their vectors, then perhaps closer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from models.vectors import comparable_choices
from search.anncur import Duel
from search.beliefs import Beliefs
from server.admitted import Answer
from server.choose import Choice
from server.errors import DeadlineError, InvalidRequestError, shown
from server.indexes.comparing import by_cur
from server.indexes.fitting import static_exit, token_ids
from server.indexes.index import Index
from server.indexes.queries import first_of
from server.inputs.sources import Passage
from server.question import Question
from server.ranking import Ranking, Wish, task_of
from server.rerank import as_they_came, rerank
from server.served import Served
from server.service import Service


@dataclass(frozen=True)
class Scorer:
    """A model that ranks what vectors found.

    Attributes:
        served: Compares two texts.
        question: What it may spend.
        wish: How it ranks.
        calls: Pairs of a search that it may compare.
    """

    served: Served
    question: Question
    wish: Wish = Wish()  # noqa: RUF009  # immutable
    calls: int = 100


class NearDocuments(NamedTuple):
    """Documents near a query.

    Attributes:
        positions: In the index.
        ranking: Of these documents.
        duel: What was measured of such searches, where a scorer ranks.
        is_cur: Whether CUR found them.
    """

    positions: list[int]
    ranking: Ranking
    duel: Duel | None = None
    is_cur: bool = False


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
        return served, as_they_came(choice, Beliefs.none(len(positions)), begun, taken_s)
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
) -> NearDocuments:
    """Return the documents nearest to a query.

    Where scores are known by which CUR found more than the list, for as many documents and
    comparisons, it is CUR that finds them.

    Args:
        service: Runs the models.
        served: The index's model.
        index: Has the documents.
        question: What the query's vector may cost.
        query: Compared with all.
        count: Documents wanted; a scorer ranks so many, or as many as it may compare.
        scorer: None to go by vectors alone.

    Raises:
        RheostatError: As `rank_stored`.
        DeadlineError: If the query's vector was not there in time.
    """
    duel = None
    if scorer is not None and index.comparisons is not None:
        known = index.comparisons
        duel = known.duel(scorer.served, scorer.question, count, scorer.calls)
        if duel is not None and duel.cur > duel.listed:
            about = service, scorer.served, scorer.question, query, index.texts
            return NearDocuments(*await by_cur(*about, known, scorer.calls), duel, True)
    answer, vector = await _vector(service, served, index, question, query)
    pool = min(len(index), count if scorer is None else max(count, scorer.calls))
    (found,) = (await asyncio.to_thread(first_of, index.vectors, vector[None], pool)).tolist()
    scores: list[float] = (index.vectors[found] @ vector).tolist()
    if scorer is None:
        return NearDocuments(found, _by_vectors(answer, scores))
    return NearDocuments(found, await _closer(service, index, query, found, scores, scorer), duel)


async def _vector(
    service: Service, served: Served, index: Index, question: Question, query: Passage
) -> tuple[Answer, Tensor]:
    """Return the answer for a query in the index's space, and its vector."""
    question = in_space(served, index, question)
    answer = await service.infer(served, question, served.named("text", [query]))
    selection = answer.selection
    measured = index.quality_of(selection.subnet)
    if index.patch is not None and measured is not None and measured.is_fitted:
        static = static_exit(served, selection.subnet, selection)
        if static is not None:
            ids = await token_ids(service, served, question, [query])
            return answer, index.patch.vectors(ids, static)[0]
    return answer, answer.outputs[0][task_of(served, selection, "embedding")].float().cpu()


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

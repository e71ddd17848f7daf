"""What all protocols that rank texts have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request, Response
from starlette.background import BackgroundTask

from models.tasks import Kind
from search.quality.sides import Side
from server.api.answer import milliseconds, plan_receipt, receipt_headers, unless_gone
from server.api.options import options_of
from server.api.rheostat.ranking_schema import RankingReceipt, StageReceipt, StagesReceipt
from server.api.rheostat.schema import BudgetBody, Milliseconds, PlanReceipt
from server.api.rheostat.text_schema import Preferences
from server.clients.caller import caller_of
from server.inputs.sources import Passage
from server.observe.metrics import Tally
from server.question import Question
from server.ranking import Cascade, Ranking, Wish
from server.rerank import rerank
from server.served import Served
from server.service import Service


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """A ranking as any protocol asks for it.

    Attributes:
        query: What the others are compared with.
        documents: In the client's order.
        model: By name; None for the only one that takes texts.
        budget: Of the body.
        preferences: Likewise.
        priority: Likewise.
        cascade: Likewise.
        query_budget: Of the body, for the query alone; ``budget`` is then for the documents.
        in_stages: As in `server.rerank.Wish`.
        places: Likewise.
        adapter: Of the body.
        lexical_weight: As in `server.rerank.Wish`.
    """

    query: Passage
    documents: Sequence[Passage]
    model: str | None
    budget: BudgetBody | None
    preferences: Preferences = None
    priority: int | None = None
    cascade: Cascade | None = None
    query_budget: BudgetBody | None = None
    in_stages: bool | None = None
    places: int | None = None
    adapter: str | None = None
    lexical_weight: float = 0.0


async def ranked(
    service: Service,
    request: Request,
    response: Response,
    tally: Tally,
    ranking_request: RankingRequest,
    gives: tuple[Kind, ...] = ("embedding", "score"),
) -> tuple[Ranking, RankingReceipt]:
    """Rank texts; put the receipt's main figures into the response's headers.

    Args:
        service: Answers.
        request: Of the client.
        response: To it.
        tally: Told the model.
        ranking_request: What is asked.
        gives: Kinds of answers that may rank.

    Raises:
        RheostatError: As `server.rerank.rerank`; UnknownModelError.
    """
    served = service.models_of(caller_of(request)).choose(
        ranking_request.model, "text", gives=gives
    )
    tally.model = served.name
    by_side = ranking_request.query_budget is not None

    def question(budget: BudgetBody | None, side: Side) -> Question:
        return options_of(request).question(
            caller_of(request),
            budget,
            preferences=ranking_request.preferences,
            fixed=served.whole_outputs if by_side else None,
            priority=ranking_request.priority,
            side=side if by_side else None,
            adapter=ranking_request.adapter,
        )

    ranking = await unless_gone(
        request,
        rerank(
            service,
            served,
            question(ranking_request.budget, "document"),
            ranking_request.query,
            ranking_request.documents,
            Wish(
                ranking_request.cascade,
                question(ranking_request.query_budget, "query") if by_side else None,
                ranking_request.in_stages,
                ranking_request.places,
                lexical_weight=ranking_request.lexical_weight,
            ),
        ),
    )
    receipt = receipt_of(served, ranking)
    note_when_sent(service, response, ranking)
    response.headers.update(receipt_headers(served, ranking.choice.selection))
    return ranking, receipt


def unit_scores(ranking: Ranking) -> list[float]:
    """Return the scores as numbers from 0 to 1, for protocols that promise such.

    Of the ways to map a cosine's -1..1 to 0..1, the straight line keeps order, ties and
    differences, has no parameter and can be undone; a sigmoid, which is what cross-encoders'
    logits are trained for, would leave only 0.27 to 0.73. Rounding may have left a cosine a little
    outside.
    """
    if ranking.scale == "logit":
        return probabilities(ranking.scores)
    return [min(1.0, max(0.0, (1.0 + cosine) / 2.0)) for cosine in ranking.scores]


def own_scores(ranking: Ranking, raw: bool) -> list[float]:
    """Return cosines as they are, and logits as numbers from 0 to 1 unless they are wanted raw."""
    return ranking.scores if raw or ranking.scale == "cosine" else probabilities(ranking.scores)


def probabilities(logits: Sequence[float]) -> list[float]:
    """Return the logistic function of each number."""
    return [0.5 * (1.0 + math.tanh(0.5 * logit)) for logit in logits]  # which never overflows


def note_when_sent(service: Service, response: Response, ranking: Ranking) -> None:
    """Have later rankings set aside as much time for their answers as this one's takes."""
    if ranking.stages is None:
        return
    ended = ranking.stages.ended

    async def note() -> None:
        service.pacing.note_answer(service.clock() - ended)

    response.background = BackgroundTask(note)


def receipt_of(served: Served, ranking: Ranking) -> RankingReceipt:
    """Return what a ranking took and is worth."""
    query = None
    if ranking.query is not None:
        query = PlanReceipt(**plan_receipt(served, ranking.query, ranking.adapters))
    stages, receipt = ranking.stages, None
    if stages is not None:
        receipt = StagesReceipt(
            rungs=[dict(rung) for rung in stages.rungs],
            reached=list(stages.reached),
            runs=[
                StageReceipt(
                    rung=run.rung,
                    documents=run.documents,
                    flops=2 * run.macs,
                    milliseconds=1000 * run.seconds,
                )
                for run in stages.runs
            ],
            expected_overlap=stages.overlap,
        )
    return RankingReceipt(
        **plan_receipt(served, ranking.choice.selection, ranking.adapters),
        total_flops=2 * ranking.macs,
        num_tokens=ranking.num_tokens,
        query=query,
        deepened=ranking.deepened,
        stages=receipt,
        slimmed=ranking.choice.is_slimmed,
        milliseconds=Milliseconds(**milliseconds(ranking.seconds, ranking.choice)),
    )

"""What paths have in common that rank documents of an index."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request, Response

from server.api.answer import receipt_headers, unless_gone
from server.api.body import check_count, read_json
from server.api.options import options_of
from server.api.ranking import note_when_sent, own_scores, receipt_of
from server.api.rheostat.index_schema import StoredRerankBody
from server.api.rheostat.ranking_schema import RankedDocument, RerankAnswer
from server.api.rheostat.schema import BudgetBody
from server.api.rheostat.text_schema import DocumentText, Usage
from server.clients.caller import caller_of
from server.indexes.asking import Scorer, rank_stored
from server.indexes.index import Index
from server.inputs.sources import Passage
from server.observe.metrics import Tally
from server.question import Question
from server.ranking import Wish
from server.served import Served
from server.service import Service


@dataclass(frozen=True, slots=True)
class AskedIndex:
    """An index and how it is asked.

    Attributes:
        served: Its model.
        index: Of the client.
        question: What a query's vector may cost.
        scorer: Has the last word; None to go by vectors alone.
    """

    served: Served
    index: Index
    question: Question
    scorer: Scorer | None


async def stored_of(
    service: Service,
    request: Request,
    tally: Tally,
    name: str,
    model: str | None,
    budget: BudgetBody | None,
    priority: int | None,
    places: int | None,
    calls: int = 100,
) -> AskedIndex:
    """Return an index and how it is asked.

    Args:
        service: Has it.
        request: Of the client.
        tally: Told the model that has the last word.
        name: Of the index.
        model: That has the last word; None, or the index's own, for its vectors.
        budget: Of the body.
        priority: Likewise.
        places: As in `server.ranking.Wish`.
        calls: As in `server.indexes.asking.Scorer`.

    Raises:
        RheostatError: UnknownIndexError, UnknownModelError.
    """
    caller = caller_of(request)
    models = service.models_of(caller)
    index = await service.indexes.get(caller.client, name)
    served = models.choose(index.model, "text", gives=("embedding",))
    tally.model = served.name
    question = options_of(request).question(caller, budget, priority=priority)
    if model in (None, index.model):
        return AskedIndex(served, index, question, None)
    closer = models.choose(model, "text", gives=("score",))
    tally.model = closer.name
    return AskedIndex(served, index, question, Scorer(closer, question, Wish(places=places), calls))


async def rerank_stored(
    service: Service, request: Request, response: Response, tally: Tally, max_texts: int
) -> RerankAnswer:
    """Answer a body with ``ids`` of documents of an index."""
    body = await read_json(request, StoredRerankBody)
    check_count("ids", len(body.ids), max_texts, "max_texts")
    stored = await stored_of(
        service,
        request,
        tally,
        body.index,
        body.model,
        body.budget,
        body.priority,
        body.top_n,
    )
    index, positions = stored.index, stored.index.at(body.ids)
    query = Passage("query", body.query, truncate=body.truncate)
    last, ranking = await unless_gone(
        request,
        rank_stored(
            service, stored.served, index, stored.question, query, positions, stored.scorer
        ),
    )
    note_when_sent(service, response, ranking)
    response.headers.update(receipt_headers(last, ranking.choice.selection))
    scores = own_scores(ranking, body.raw_scores)
    results = [
        RankedDocument(index=i, relevance_score=scores[i]) for i in ranking.order[: body.top_n]
    ]
    if body.return_documents:
        for one in results:
            one.document = DocumentText(text=index.texts[positions[one.index]])
    return RerankAnswer(
        id=request.scope["state"]["request_id"],
        model=last.name,
        usage=Usage(prompt_tokens=ranking.num_tokens, total_tokens=ranking.num_tokens),
        results=results,
        receipt=receipt_of(last, ranking),
    )

"""`/v1/similarity`, and the paths that several protocols of reranking claim.

The body says which is meant: ``texts`` TEI's, ``documents`` the one of the path, which is Cohere's
second version at `/v2/rerank` and elsewhere ours, a superset of Jina's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict

from models.inputs.content import Side
from server.api import cohere
from server.api.body import check_count, read_json
from server.api.cohere import COHERE, CohereAnswer
from server.api.documentation import OWN, errors, inlined, request_docs
from server.api.ranking import RankingRequest, own_scores, ranked
from server.api.request_body import RequestBody
from server.api.rheostat.index_schema import StoredRerankBody
from server.api.rheostat.ranking_schema import RankedDocument, RerankAnswer, SimilarityAnswer
from server.api.rheostat.text_schema import DocumentText, RerankBody, SimilarityBody, Usage
from server.api.stored import rerank_stored
from server.api.tei import routes as tei
from server.api.tei.form import TEI
from server.api.tei.schema import TeiRank, TeiRerankBody
from server.errors import InvalidRequestError, shown
from server.http.forms import own_form
from server.inputs.sources import Passage
from server.ranking import Cascade
from server.service import Service

_STATUSES = (404, 413, 415, 422, 429, 504)
_BODIES = {"anyOf": [inlined(RerankBody), inlined(TeiRerankBody)]}
_OWN_BODIES = {"anyOf": [*_BODIES["anyOf"], inlined(StoredRerankBody)]}


class _Keys(RequestBody):
    model_config = ConfigDict(extra="ignore")

    texts: Any = None
    documents: Any = None
    ids: Any = None


def routes(service: Service, max_texts: int) -> APIRouter:
    """Return the routes.

    Args:
        service: Answers.
        max_texts: Most texts in one request, the query not counted.
    """
    router = APIRouter(tags=["ranking"])

    @router.post(
        "/v1/similarity",
        openapi_extra=request_docs(json=inlined(SimilarityBody)),
        responses=errors(*_STATUSES),
    )
    async def similarity(request: Request, response: Response) -> SimilarityAnswer:
        """Compare texts with one text."""
        with service.metrics.request() as tally:
            body = await read_json(request, SimilarityBody)
            check_count("texts", len(body.texts), max_texts, "max_texts")
            ranking_request = RankingRequest(
                Passage("source", body.source, truncate=body.truncate),
                [
                    Passage(f"texts[{i}]", text, truncate=body.truncate)
                    for i, text in enumerate(body.texts)
                ],
                body.model,
                body.budget,
                body.preferences,
                body.priority,
                adapter=body.adapter,
            )
            ranking, receipt = await ranked(
                service, request, response, tally, ranking_request, ("embedding",)
            )
        return SimilarityAnswer(scores=ranking.scores, receipt=receipt)

    async def rank(request: Request, response: Response) -> RerankAnswer | list[TeiRank]:
        """Put documents in order of their similarity to a query."""
        with service.metrics.request() as tally:
            which = await _which(request)
            if which == "texts":
                return await tei.rerank(service, request, response, tally, max_texts)
            request.scope["state"]["form"] = own_form
            if which == "ids":
                return await rerank_stored(service, request, response, tally, max_texts)
            body = await read_json(request, RerankBody)
            ranking_request = _ranking_request(body, max_texts, body.truncate)
            ranking, receipt = await ranked(service, request, response, tally, ranking_request)
        scores = own_scores(ranking, body.raw_scores)
        results = [
            RankedDocument(index=i, relevance_score=scores[i]) for i in ranking.order[: body.top_n]
        ]
        if body.return_documents:
            for one in results:
                one.document = _repeated(body.documents[one.index])
        return RerankAnswer(
            id=request.scope["state"]["request_id"],
            model=receipt.model,
            usage=Usage(prompt_tokens=ranking.num_tokens, total_tokens=ranking.num_tokens),
            results=results,
            receipt=receipt,
        )

    async def rank_as_cohere(request: Request, response: Response) -> CohereAnswer | list[TeiRank]:
        """Put documents in order of their similarity to a query, as Cohere's clients ask for it.

        Texts that are too long are cut at the end unless `truncate` says otherwise.
        """
        with service.metrics.request() as tally:
            which = await _which(request)
            if which == "texts":
                return await tei.rerank(service, request, response, tally, max_texts)
            body = await read_json(request, RerankBody)
            ranking_request = _ranking_request(body, max_texts, body.truncate or "right")
            ranking, receipt = await ranked(service, request, response, tally, ranking_request)
        answer = cohere.answer(request.scope["state"]["request_id"], ranking, receipt, body.top_n)
        if body.return_documents:
            for one in answer.results:
                one.document = _repeated(body.documents[one.index])
        return answer

    for path, answer, bodies, by in (
        ("/rerank", rank, _OWN_BODIES, (TEI, OWN)),
        ("/v1/rerank", rank, _OWN_BODIES, (OWN, TEI)),
        (cohere.PATH, rank_as_cohere, _BODIES, (COHERE, TEI)),
    ):
        router.add_api_route(
            path,
            answer,
            methods=["POST"],
            openapi_extra=request_docs(json=bodies),
            responses=errors(400, 424, *_STATUSES, by=by),
            response_model_exclude_unset=True,  # texts that nobody asked for
        )
    return router


async def _which(request: Request) -> str:
    """Return the field that has what is to be ranked."""
    given = (await read_json(request, _Keys)).model_fields_set
    if len(given) == 1:
        return next(iter(given))
    problem = "both given; use one" if given else "missing; one is required"
    names = "documents and ids" if "ids" in given else "documents and texts"
    raise InvalidRequestError(f"{names} are {problem}", "documents")


def _ranking_request(body: RerankBody, max_texts: int, truncate: Side | None) -> RankingRequest:
    check_count("documents", len(body.documents), max_texts, "max_texts")
    may_cut = body.max_tokens_per_doc is not None or body.max_chunks_per_doc is not None
    side = truncate or ("right" if may_cut else None)
    return RankingRequest(
        Passage("query", body.query, body.query_prompt, truncate),
        [
            Passage(
                f"documents[{i}]",
                _text(f"documents[{i}]", one, body.rank_fields or ["text"]),
                body.document_prompt,
                side,
                body.max_tokens_per_doc,
            )
            for i, one in enumerate(body.documents)
        ],
        body.model,
        body.budget,
        body.preferences,
        body.priority,
        Cascade(body.cascade.depth, body.cascade.keep) if body.cascade else None,
        body.query_budget,
        body.in_stages,
        body.top_n,
        body.adapter,
        body.lexical_weight,
    )


def _text(field: str, document: str | DocumentText, rank_fields: Sequence[str]) -> str:
    """Return what is ranked of a document: the values of its fields, one on each line."""
    if isinstance(document, str):
        return document
    fields = document.model_dump()
    for name in rank_fields:
        if not isinstance(value := fields.get(name), str):
            where = f"{field}.{name}"[:80]
            raise InvalidRequestError(f"{where}={shown(value)} must be a text, to be ranked", where)
    return "\n".join(fields[name] for name in rank_fields)


def _repeated(document: str | DocumentText) -> DocumentText:
    return DocumentText(text=document) if isinstance(document, str) else document

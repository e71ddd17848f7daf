"""`POST /v1/similarity` and `POST /v1/rerank`: texts against one text, by their vectors' cosine."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from models.text import TextInput
from server.api.answer import milliseconds, plan_receipt, receipt_headers, unless_gone
from server.api.body import check_count, read_json
from server.api.budget import merged_budget
from server.api.schema import (
    BudgetBody,
    Milliseconds,
    Name,
    PlanReceipt,
    errors,
    inlined,
    request_docs,
)
from server.caller import caller_of
from server.catalog import Served
from server.choose import Question
from server.decode import Passage
from server.metrics import Tally
from server.rerank import Cascade, Ranking, rerank
from server.service import Service

_Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
_STATUSES = (404, 413, 415, 422, 429, 500, 503)


class _TextBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Name | None = Field(
        default=None, description="May be left out where one model is served."
    )
    budget: BudgetBody | None = Field(default=None, description="For each text.")
    preferences: dict[Name, Annotated[float, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="Weight of each measured task; default: equal."
    )
    truncate: Literal["left", "right"] | None = Field(
        default=None, description="Which end to cut of a text that is too long; default: refuse it."
    )


class SimilarityBody(_TextBody):
    """One text and those to compare it with."""

    source: str
    texts: _Texts


class CascadeBody(BaseModel):
    """Score all documents at a shallow exit first, then only the best at the chosen one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    depth: int = Field(gt=0, description="Exit layer of the first pass.")
    keep: int = Field(gt=0, description="Documents that go on to the chosen depth.")


class RerankBody(_TextBody):
    """A query and the documents to put in order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "how do I reset my card's PIN?",
                    "documents": ["PINs are changed at any cash machine.", "Opening hours"],
                    "top_n": 1,
                    "cascade": {"depth": 2, "keep": 1},
                }
            ]
        }
    )

    query: str
    documents: _Texts
    top_n: int | None = Field(default=None, gt=0, description="Return only so many.")
    return_documents: bool = Field(default=False, description="Repeat the texts in the answer.")
    query_prompt: Name | None = Field(default=None, description="Template for the query.")
    document_prompt: Name | None = Field(default=None, description="Template for documents.")
    cascade: CascadeBody | None = None


class RankingReceipt(PlanReceipt):
    """The receipt of a ranking: the subnet of the whole, and what all texts took together."""

    total_flops: int = Field(description="For all texts, the query included.")
    num_tokens: int = Field(description="Read, special tokens included.")
    deepened: list[int] = Field(description="Documents that went on to the chosen depth.")
    slimmed: bool = Field(description="Whether a better subnet would have run if nobody waited.")
    milliseconds: Milliseconds


class SimilarityAnswer(BaseModel):
    """Answer of `/v1/similarity`."""

    scores: list[float] = Field(description="Cosine per text, in order.")
    receipt: RankingReceipt


class RankedDocument(BaseModel):
    """One document."""

    index: int
    relevance_score: float = Field(description="Cosine with the query.")
    document: str | None = None


class RerankAnswer(BaseModel):
    """Answer of `/v1/rerank`."""

    model: str
    results: list[RankedDocument] = Field(description="Best first.")
    receipt: RankingReceipt


def routes(service: Service, max_texts: int) -> APIRouter:
    """Return the routes.

    Args:
        service: Answers.
        max_texts: Most texts in one request, the query not counted.
    """
    router = APIRouter(prefix="/v1", tags=["ranking"])

    async def ranked(
        request: Request,
        response: Response,
        tally: Tally,
        body: _TextBody,
        query: Passage,
        documents: list[Passage],
        cascade: Cascade | None = None,
    ) -> tuple[Ranking, RankingReceipt]:
        served = service.catalog.choose(body.model, TextInput)
        tally.model = served.name
        question = _question(body, request)
        ranking = await unless_gone(
            request, rerank(service, served, question, query, documents, cascade)
        )
        receipt = _receipt(served, ranking)
        response.headers.update(receipt_headers(receipt))
        return ranking, receipt

    @router.post(
        "/similarity",
        openapi_extra=request_docs(json=inlined(SimilarityBody)),
        responses=errors(*_STATUSES),
    )
    async def similarity(request: Request, response: Response) -> SimilarityAnswer:
        """Compare texts with one text."""
        with service.metrics.request() as tally:
            body = await read_json(request, SimilarityBody)
            check_count("texts", len(body.texts), max_texts, "max_texts")
            source = Passage("source", body.source, truncate=body.truncate)
            others = [
                Passage(f"texts[{i}]", text, truncate=body.truncate)
                for i, text in enumerate(body.texts)
            ]
            ranking, receipt = await ranked(request, response, tally, body, source, others)
        return SimilarityAnswer(scores=ranking.scores, receipt=receipt)

    @router.post(
        "/rerank",
        openapi_extra=request_docs(json=inlined(RerankBody)),
        responses=errors(*_STATUSES),
    )
    async def rank(request: Request, response: Response) -> RerankAnswer:
        """Put documents in order of their similarity to a query."""
        with service.metrics.request() as tally:
            body = await read_json(request, RerankBody)
            check_count("documents", len(body.documents), max_texts, "max_texts")
            query = Passage("query", body.query, body.query_prompt, body.truncate)
            documents = [
                Passage(f"documents[{i}]", text, body.document_prompt, body.truncate)
                for i, text in enumerate(body.documents)
            ]
            cascade = Cascade(body.cascade.depth, body.cascade.keep) if body.cascade else None
            ranking, receipt = await ranked(
                request, response, tally, body, query, documents, cascade
            )
        return RerankAnswer(
            model=receipt.model,
            results=[
                RankedDocument(
                    index=i,
                    relevance_score=ranking.scores[i],
                    document=body.documents[i] if body.return_documents else None,
                )
                for i in ranking.order[: body.top_n]
            ],
            receipt=receipt,
        )

    return router


def _question(body: _TextBody, request: Request) -> Question:
    budget = merged_budget(body.budget, request.headers)
    return Question(None, body.preferences, budget, caller=caller_of(request))


def _receipt(served: Served, ranking: Ranking) -> RankingReceipt:
    return RankingReceipt(
        **plan_receipt(served, ranking.choice.selection).model_dump(),
        total_flops=2 * ranking.macs,
        num_tokens=ranking.num_tokens,
        deepened=ranking.deepened,
        slimmed=ranking.choice.is_slimmed,
        milliseconds=milliseconds(ranking.seconds, ranking.choice),
    )

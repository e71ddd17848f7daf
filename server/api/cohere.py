"""Cohere's second version of reranking: how it spells answers and errors."""

from __future__ import annotations

import math

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from server.api.documentation import Spelling
from server.api.ranking import unit_scores
from server.api.rheostat.ranking_schema import RankingReceipt
from server.api.rheostat.text_schema import DocumentText
from server.errors import RheostatError
from server.ranking import Ranking

PATH = "/v2/rerank"
_SEARCH_UNIT = 100  # documents


class CohereResult(BaseModel):
    """One document."""

    index: int
    relevance_score: float = Field(
        ge=0,
        le=1,
        description="(1 + cosine with the query) / 2; of a cross-encoder its probability.",
    )
    document: DocumentText | None = Field(default=None, description="With `return_documents`.")


class CohereVersion(BaseModel):
    """Of the protocol."""

    version: str


class CohereUnits(BaseModel):
    """Size of the request in Cohere's unit; nobody is billed."""

    search_units: int = Field(description="A query with up to 100 documents is one.")


class CohereTokens(BaseModel):
    """Tokens read, special tokens included."""

    input_tokens: int


class CohereMeta(BaseModel):
    """What the request took."""

    api_version: CohereVersion
    billed_units: CohereUnits
    tokens: CohereTokens


class CohereAnswer(BaseModel):
    """Answer of `/v2/rerank`."""

    id: str = Field(description="Of the request.")
    results: list[CohereResult] = Field(description="Best first.")
    meta: CohereMeta
    receipt: RankingReceipt


class CohereError(BaseModel):
    """Body of every error: Cohere's `id` and `message`, and our own fields."""

    id: str = Field(description="Of the request.")
    message: str
    type: str
    field: str | None
    feasible: float | None = Field(
        default=None, description="With `infeasible_budget`: the nearest value that can be met."
    )
    details: list[dict[str, str | None]] | None = Field(
        default=None, description="With `invalid_request`: every fault found."
    )


def answer(
    request_id: str, ranking: Ranking, receipt: RankingReceipt, top_n: int | None
) -> CohereAnswer:
    """Spell a ranking as Cohere does."""
    scores = unit_scores(ranking)
    return CohereAnswer(
        id=request_id,
        results=[CohereResult(index=i, relevance_score=scores[i]) for i in ranking.order[:top_n]],
        meta=CohereMeta(
            api_version=CohereVersion(version="2"),
            billed_units=CohereUnits(search_units=math.ceil(len(ranking.scores) / _SEARCH_UNIT)),
            tokens=CohereTokens(input_tokens=ranking.num_tokens),
        ),
        receipt=receipt,
    )


def form(error: RheostatError, request_id: str) -> Response:
    """Spell an error as Cohere does."""
    body = {
        "id": request_id,
        "message": error.message,
        "type": error.error_type,
        "field": error.field,
        **error.extra(),
    }
    return JSONResponse(body, status_code=error.status, headers=dict(error.headers))


COHERE = Spelling(form, CohereError)
FORMS = {PATH: form}

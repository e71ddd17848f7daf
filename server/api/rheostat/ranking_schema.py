"""The JSON that `/v1/similarity` and `/v1/rerank` answer with."""

from __future__ import annotations

from pydantic import BaseModel, Field

from server.api.rheostat.schema import Milliseconds, PlanReceipt
from server.api.rheostat.text_schema import DocumentText, Usage


class RankingReceipt(PlanReceipt):
    """The receipt of a ranking: the subnet of the whole, and what all texts took together."""

    total_flops: int = Field(description="For all texts, the query included.")
    num_tokens: int = Field(description="Read, special tokens included.")
    query: PlanReceipt | None = Field(
        description="Of the query's own subnet; null if it has that of the documents."
    )
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
    relevance_score: float = Field(
        description="Cosine with the query, -1..1; of a cross-encoder its probability, 0..1."
    )
    document: DocumentText | None = None


class RerankAnswer(BaseModel):
    """Answer of `/v1/rerank`, as Jina's clients and those of Cohere's first version read it."""

    id: str = Field(description="Of the request.")
    model: str
    usage: Usage
    results: list[RankedDocument] = Field(description="Best first.")
    receipt: RankingReceipt

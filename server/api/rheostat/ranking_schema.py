"""The JSON that `/v1/similarity` and `/v1/rerank` answer with."""

from __future__ import annotations

from pydantic import BaseModel, Field

from models.space import Value
from server.api.rheostat.schema import Milliseconds, PlanReceipt
from server.api.rheostat.text_schema import DocumentText, Usage


class StageReceipt(BaseModel):
    """One stage of a ranking."""

    rung: int = Field(description="Position in `rungs`.")
    documents: int = Field(description="That were scored.")
    flops: int
    milliseconds: float = Field(description="Waiting included.")


class StagesReceipt(BaseModel):
    """How a ranking in stages went."""

    rungs: list[dict[str, Value]] = Field(description="Subnets that could score, cheapest first.")
    reached: list[int | None] = Field(
        description="Of each document as sent, the position in `rungs` of the last that scored it; "
        "null: none did in time, and it stays where it was, after the others."
    )
    runs: list[StageReceipt] = Field(description="In order.")
    expected_overlap: float = Field(
        description="Part of the first `top_n` documents, or 10, at most half of the list, "
        "that the last of `rungs` is expected to put there as well."
    )


class RankingReceipt(PlanReceipt):
    """The receipt of a ranking: the subnet of the whole, and what all texts took together."""

    total_flops: int = Field(description="For all texts, the query included.")
    num_tokens: int = Field(description="Read, special tokens included.")
    query: PlanReceipt | None = Field(
        description="Of the query's own subnet; null if it has that of the documents."
    )
    deepened: list[int] = Field(description="Documents that went on to the chosen depth.")
    stages: StagesReceipt | None = Field(
        description="Where the budget was spent in stages; the subnet is then the best that scored."
    )
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

"""Answers about rankings; names are those of the server's JSON."""

from __future__ import annotations

from dataclasses import dataclass

from rheostat.answers import DocumentText, Milliseconds, PlanReceipt, Usage, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReceipt:
    """One stage of a ranking.

    Attributes:
        rung: Position in ``rungs``.
        documents: That were scored.
        flops: That it took.
        milliseconds: Likewise, waiting included.
    """

    rung: int
    documents: int
    flops: int
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagesReceipt:
    """How a ranking in stages went.

    Attributes:
        rungs: Subnets that could score, cheapest first.
        reached: Of each document as sent, the position in ``rungs`` of the last that scored it;
            None: none did in time.
        runs: In order.
        expected_overlap: Part of the first places, at most half of the list, that the last of
            ``rungs`` is expected to give to the same documents.
    """

    rungs: list[dict[str, Value]]
    reached: list[int | None]
    runs: list[StageReceipt]
    expected_overlap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReceipt(PlanReceipt):
    """The receipt of a ranking: the subnet of the whole, and what all texts took together.

    Attributes:
        total_flops: For all texts, the query included.
        num_tokens: Read, special tokens included.
        query: Of the query's own subnet; None if it has that of the documents.
        deepened: Documents that went on to the chosen depth.
        stages: Where the budget was spent in stages, else None.
        slimmed: Whether a better subnet would have run if nobody waited.
        milliseconds: Where the time went.
    """

    total_flops: int
    num_tokens: int
    query: PlanReceipt | None
    deepened: list[int]
    stages: StagesReceipt | None
    slimmed: bool
    milliseconds: Milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityAnswer:
    """Answer of `Client.similarity`.

    Attributes:
        scores: Cosine per text, in order.
        receipt: What ran, and what it cost.
    """

    scores: list[float]
    receipt: RankingReceipt


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedDocument:
    """One document.

    Attributes:
        index: Its place in the request.
        relevance_score: Cosine with the query, -1..1.
        document: Its text, with ``return_documents``.
    """

    index: int
    relevance_score: float
    document: DocumentText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankAnswer:
    """Answer of `Client.rerank`.

    Attributes:
        id: Of the request.
        model: The model's own name.
        usage: Tokens read.
        results: Best first.
        receipt: What ran, and what it cost.
    """

    id: str
    model: str
    usage: Usage
    results: list[RankedDocument]
    receipt: RankingReceipt

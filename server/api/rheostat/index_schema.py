"""The JSON of `/v1/indexes` and `/v1/neighbors`: what is asked and answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.space import Value
from server.api.adapters import Adapter
from server.api.request_body import RequestBody
from server.api.rheostat.ranking_schema import RankingReceipt
from server.api.rheostat.schema import BudgetBody, Name, Priority
from server.api.rheostat.text_schema import Truncate


class _Strict(RequestBody):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StoredDocument(_Strict):
    """A document to keep."""

    id: Name = Field(min_length=1)
    text: str = Field(min_length=1, description="What is too long for the model is cut at its end.")


class NewIndexBody(_Strict):
    """Documents to keep with their vectors."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "faq",
                    "model": "minilm-2d",
                    "documents": [{"id": "pin", "text": "PINs are changed at any cash machine."}],
                }
            ]
        }
    )

    name: Name = Field(min_length=1, description="One of the same name is replaced.")
    model: Name | None = Field(
        default=None, description="May be left out where one model embeds texts."
    )
    adapter: Adapter = None
    documents: Annotated[list[StoredDocument], Field(fail_fast=True, min_length=1)]
    pair_model: Name | None = Field(
        default=None,
        description="Compares two texts: up to 48 sentences are compared with all documents, "
        "20,000 pairs at most, and CUR with re-ranking the nearest by vectors.",
    )


class DuelAnswer(BaseModel):
    """What two ways find of the nearest under a model that compares two texts."""

    k: int = Field(description="Nearest documents wanted.")
    calls: int = Field(description="Pairs compared.")
    cur: float = Field(description="Mean part that CUR finds.")
    listed: float = Field(description="Mean part that re-ranking the nearest by vectors finds.")
    stderr: float = Field(description="Of the difference, over queries.")
    n: int = Field(description="Queries.")


class QueryQualityAnswer(BaseModel):
    """What queries by one subnet find of what those by the best one do."""

    subnet: dict[str, Value]
    flops: int = Field(description="Of a query of the mean length of those tried.")
    overlap: float = Field(
        description="Mean part of the best subnet's first ten that are among its own first ten."
    )
    stderr: float = Field(description="Over the queries.")
    n: int = Field(description="Queries: sentences of the documents.")
    is_fitted: bool = Field(
        default=False,
        description="Whether the query runs no layer, and its tokens' vectors were fitted to other "
        "documents of this index.",
    )


class IndexAnswer(BaseModel):
    """An index."""

    name: str
    model: str
    space: str = Field(description="Id of the space of its vectors.")
    subnet: dict[str, Value] = Field(description="That made them.")
    adapter: str = Field(description="That they are of; empty for none.")
    documents: int
    bytes: int = Field(description="Held, about.")
    created: int = Field(description="Unix time.")
    flops: int = Field(description="That making the vectors took.")
    queries: list[QueryQualityAnswer] = Field(
        description="Measured when it was made, cheapest first; empty for one document."
    )
    pair_model: str | None = Field(description="That was compared with.")
    duels: list[DuelAnswer] = Field(description="Measured of it when the index was made.")


class IndexList(BaseModel):
    """The client's indexes."""

    indexes: list[IndexAnswer]


class NeighborsBody(_Strict):
    """A query for the nearest documents."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"index": "faq", "query": "change my PIN", "k": 3}]}
    )

    index: Name
    query: str
    k: int = Field(default=10, gt=0, description="Documents wanted; all where there are less.")
    model: Name | None = Field(
        default=None,
        description="Compares two texts, and has the last word. Default: the vectors have it.",
    )
    calls: int = Field(
        default=100,
        gt=0,
        description="Pairs that `model` may compare. It looks in stages at so many of the nearest "
        "by vectors, or at `k` if that is more; or CUR finds them, where it was measured to find "
        "more and the budget limits nothing.",
    )
    budget: BudgetBody | None = Field(
        default=None, description="For the query's vector, and likewise for each pair."
    )
    priority: Priority = None
    return_documents: bool = Field(default=False, description="Repeat texts in the answer.")
    truncate: Truncate = None


class StoredRerankBody(_Strict):
    """A query and documents of an index to put in order."""

    query: str
    index: Name = Field(description="Of documents kept here (`/v1/indexes`).")
    ids: Annotated[list[Name], Field(fail_fast=True, min_length=1)] = Field(
        description="Of documents. They are ranked by the vectors that the index has; where "
        "`model` names one that compares two texts, it then looks at them in stages."
    )
    model: Name | None = Field(
        default=None, description="Compares two texts. Default: the vectors have the last word."
    )
    top_n: int | None = Field(
        default=None,
        gt=0,
        description="Return only so many; default: all, as where there are less.",
    )
    budget: BudgetBody | None = Field(
        default=None, description="For the query's vector, and likewise for each pair."
    )
    priority: Priority = None
    return_documents: bool = Field(default=False, description="Repeat texts in the answer.")
    raw_scores: bool = Field(
        default=False, description="A cross-encoder's logits as scores; cosines stay as they are."
    )
    truncate: Truncate = None


class Neighbor(BaseModel):
    """One document."""

    id: str
    score: float = Field(description="Cosine, or of a model that compares two texts 0..1.")
    document: str | None = None


class NeighborsAnswer(BaseModel):
    """Answer of `/v1/neighbors`."""

    id: str = Field(description="Of the request.")
    results: list[Neighbor] = Field(description="Nearest first.")
    quality: QueryQualityAnswer | None = Field(
        description="What was measured of queries by this subnet; null if nothing was, or another "
        "model had the last word."
    )
    found_by: Literal["vectors", "list", "cur"] = Field(
        description="The nearest by vectors; these re-ranked by `model`; or CUR."
    )
    duel: DuelAnswer | None = Field(
        description="What was measured of the nearest such `k` and `calls`; null if nothing was."
    )
    receipt: RankingReceipt

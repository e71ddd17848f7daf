"""The JSON of `/v1/embeddings`, `/v1/similarity` and `/v1/rerank`: what is asked and answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from server.api.adapters import Adapter
from server.api.request_body import RequestBody
from server.api.rheostat.schema import (
    BudgetBody,
    Name,
    Priority,
    Receipt,
)
from server.api.sides import SideOfSearch

_MAX_FIELDS = 100
_MOST_WEIGHT = 10.0  # of words: far beyond, the model says nothing

Text = Annotated[str, Field(strict=True)]
Ids = Annotated[list[Annotated[int, Field(strict=True)]], Field(fail_fast=True)]


def _one_kind(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:  # of every kind in turn; what it might have been helps nobody
        raise PydanticCustomError(
            "texts",
            "Input should be a text, a list of token ids, or a list of texts or of such lists",
        ) from None


Texts = Annotated[
    Text
    | Ids
    | Annotated[list[Text], Field(fail_fast=True)]
    | Annotated[list[Ids], Field(fail_fast=True)],
    WrapValidator(_one_kind),
    Field(
        description="A text, several, token ids of the model's own tokenizer, or several such "
        "lists. Token ids are used as they are; no special token is added."
    ),
]
Preferences = Annotated[
    dict[Name, Annotated[float, Field(ge=0)]] | None,
    Field(min_length=1, description="Weight of each measured task; default: equal."),
]


def _end_to_cut(value: Any) -> Any:
    """Read what Jina's clients say: whether to cut, which is at the end."""
    return {True: "right", False: None}[value] if isinstance(value, bool) else value


Truncate = Annotated[
    Literal["left", "right"] | None,
    BeforeValidator(_end_to_cut, json_schema_input_type=Literal["left", "right"] | bool | None),
    Field(
        description="Which end to cut of a text that is too long, true for the right one; default, "
        "and false: refuse it."
    ),
]


class QueryBudget(BudgetBody):
    """A budget of one side of a request: without what is of the whole request."""

    latency_ms: None = Field(default=None, description="Is of the whole request: see `budget`.")
    strict: None = Field(default=None, description="Likewise.")


class EmbeddingsBody(RequestBody):
    """What OpenAI's clients send, and our own fields."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {"model": "minilm-2d", "input": ["one text", "two"], "budget": {"fraction": 0.5}}
            ]
        },
    )

    model: Name | None = Field(
        default=None, description="May be left out where one model takes texts."
    )
    input: Texts
    encoding_format: Literal["float", "base64"] = Field(
        default="float",
        validation_alias=AliasChoices("encoding_format", "embedding_type", "encoding_type"),
        description="base64: little-endian float32. Jina's name: `embedding_type`.",
    )
    dimensions: int | None = Field(
        default=None,
        ge=0,
        strict=True,
        description="One of the model's `matryoshka_dimensions`; 0, as with infinity, for all.",
    )
    normalize: bool = Field(
        default=True,
        strict=True,
        validation_alias=AliasChoices("normalize", "normalized"),
        description="Vectors have length 1. If false, they are as pooled, and cut to "
        "`dimensions`. Jina's name: `normalized`.",
    )
    user: str | None = Field(default=None, description="Not used.")
    modality: Literal["text"] = Field(default="text", description="Infinity's; there is no other.")
    late_chunking: Literal[False] = Field(default=False, description="Jina's; not to be had.")
    add_special_tokens: Literal[True] = Field(
        default=True, description="vLLM's. Of texts; token ids are used as they are."
    )
    truncate_prompt_tokens: int | None = Field(
        default=None,
        ge=-1,
        strict=True,
        description="vLLM's: cut texts to so many tokens, by `truncate` or at the end; -1: all.",
    )
    budget: BudgetBody | None = Field(default=None, description="For each text.")
    preferences: Preferences = None
    side: SideOfSearch = None
    adapter: Adapter = None
    priority: Priority = None
    prompt: Name | None = Field(
        default=None,
        validation_alias=AliasChoices("prompt", "task"),
        description="Name of one of the model's templates. Jina's name: `task`.",
    )
    truncate: Truncate = None


class EmbeddingEntry(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens read, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """What OpenAI's clients read, and the receipt."""

    object: Literal["list"] = "list"
    data: list[EmbeddingEntry]
    model: str
    usage: Usage
    receipt: Receipt


class _TextBody(RequestBody):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Name | None = Field(
        default=None, description="May be left out where one model takes texts."
    )
    budget: BudgetBody | None = Field(default=None, description="For each text.")
    preferences: Preferences = None
    adapter: Adapter = None
    priority: Priority = None
    truncate: Truncate = None


class SimilarityBody(_TextBody):
    """One text and those to compare it with."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": "a cat", "texts": ["a kitten", "a bond"]}]}
    )

    source: str
    texts: Annotated[list[str], Field(min_length=1, fail_fast=True)]


class CascadeBody(RequestBody):
    """Score all documents at a shallow exit first, then only the best at the chosen one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    depth: int = Field(gt=0, description="Exit layer of the first pass.")
    keep: int = Field(gt=0, description="Documents that go on to the chosen depth.")


class DocumentText(RequestBody):
    """A document as an object; what is not ranked comes back as it is."""

    model_config = ConfigDict(extra="allow", strict=True)

    text: str | None = None


def _document(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:  # of a text and of an object, each with a path of its own
        raise PydanticCustomError(
            "document", 'Input should be a text, or an object whose "text" is one'
        ) from None


class RerankBody(_TextBody):
    """A query and the documents to put in order: fields of Cohere, Jina and infinity, and ours."""

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
    documents: Annotated[
        list[Annotated[str | DocumentText, WrapValidator(_document)]],
        Field(min_length=1, fail_fast=True),
    ]
    top_n: int | None = Field(
        default=None,
        gt=0,
        description="Return only so many; default: all, as where there are less.",
    )
    return_documents: bool = Field(default=False, description="Repeat documents in the answer.")
    rank_fields: Annotated[list[Name], Field(fail_fast=True)] | None = Field(
        default=None,
        min_length=1,
        max_length=_MAX_FIELDS,
        description="Keys of documents whose values are ranked, one on each line, in this order; "
        "each document that is an object must have them all, as texts. A document that is a text "
        "is taken as it is. Default: `text`.",
    )
    max_tokens_per_doc: int | None = Field(
        default=None,
        gt=0,
        description="Cut longer documents at the end, special tokens counted; the model's own "
        "limit holds too.",
    )
    max_chunks_per_doc: int | None = Field(
        default=None,
        gt=0,
        description="Cohere 1's. A document is one chunk here: longer ones are cut at the end.",
    )
    raw_scores: bool = Field(
        default=False, description="A cross-encoder's logits as scores; cosines stay as they are."
    )
    texts: None = Field(default=None, description="TEI's, instead of `documents`.")
    query_prompt: Name | None = Field(default=None, description="Template for the query.")
    document_prompt: Name | None = Field(default=None, description="Template for documents.")
    cascade: CascadeBody | None = None
    in_stages: bool | None = Field(
        default=None,
        strict=True,
        description="Whether the budget may go to some documents more than to others: all are "
        "scored as cheaply as can be, then those that may belong to the first `top_n`, or 10, more "
        "closely. A ceiling per input then holds for their mean, and `latency_ms` is a deadline at "
        "which the best order so far is the answer. Default: true with a `latency_ms`, unless "
        "`cascade` or `query_budget` says otherwise.",
    )
    lexical_weight: float = Field(
        default=0.0,
        ge=0,
        le=_MOST_WEIGHT,
        allow_inf_nan=False,
        description="How much the query's words in a document (BM25, with the list for its corpus) "
        "count beside the model's score, both in standard deviations of the list; 0: not at all. "
        "Scores of the answer hold them.",
    )
    query_budget: QueryBudget | None = Field(
        default=None,
        description="For the query alone; `budget` is then for documents. Both subnets give "
        "vectors of one space and size.",
    )

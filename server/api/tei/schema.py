"""The JSON of Text Embeddings Inference: what is asked and what is answered.

Like TEI, and unlike every other protocol here, a body may have fields that are not known: its
clients send such. ``model``, ``budget``, ``adapter`` and ``priority`` are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from models.inputs.content import Side
from server.api.adapters import Adapter
from server.api.request_body import RequestBody
from server.api.rheostat.schema import BudgetBody, Name, Priority
from server.api.rheostat.text_schema import Ids, Text, Texts


class _Lenient(RequestBody):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class _RunBody(_Lenient):
    model: Name | None = Field(
        default=None, description="May be left out where one model takes texts."
    )
    budget: BudgetBody | None = Field(default=None, description="For each text.")
    adapter: Adapter = None
    priority: Priority = None


class _Cut(_Lenient):
    truncate: bool | None = Field(
        default=None, description="Cut a text that is too long; if false, refuse it. Default: cut."
    )
    truncation_direction: Literal["Left", "Right", "left", "right"] = Field(
        default="Right", description="Which end to cut."
    )

    @property
    def side(self) -> Side | None:
        """Which end to cut; None for none."""
        if self.truncate is False:
            return None
        return "left" if self.truncation_direction in ("Left", "left") else "right"


class EmbedBody(_RunBody, _Cut):
    """Texts to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": ["one text", "two"], "dimensions": 128}]}
    )

    inputs: Texts
    prompt_name: Name | None = Field(
        default=None, description="Name of one of the model's templates."
    )
    normalize: bool = Field(
        default=True,
        description="Vectors have length 1. If false, they are as pooled, and cut to `dimensions`.",
    )
    dimensions: int | None = Field(
        default=None,
        gt=0,
        description="Leading dimensions, one of `matryoshka_dimensions` of `/info`.",
    )


class SentencesBody(_Lenient):
    """One text and those to compare it with."""

    source_sentence: str
    sentences: Annotated[list[str], Field(fail_fast=True)]


class SimilarityParameters(_Cut):
    """How to read the texts."""

    prompt_name: Name | None = Field(
        default=None, description="Name of one of the model's templates."
    )


class TeiSimilarityBody(_RunBody):
    """Sentences to compare."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": {"source_sentence": "a cat", "sentences": ["a kitten"]}}]
        }
    )

    inputs: SentencesBody
    parameters: SimilarityParameters | None = None


class TeiRerankBody(_RunBody, _Cut):
    """A query and the texts to put in order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "a cat", "texts": ["a bond", "a kitten"]}]}
    )

    query: str
    texts: Annotated[list[str], Field(fail_fast=True)]
    raw_scores: bool = Field(
        default=False, description="Cosines, or a cross-encoder's logits, as scores."
    )
    return_text: bool = Field(default=False, description="Repeat the texts in the answer.")


def _sequence(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:  # of a text and of lists, each with a path of its own
        raise PydanticCustomError(
            "sequences", "Input should be a text, a pair of texts, or a list of [text] and of pairs"
        ) from None


_Sequence: TypeAlias = Annotated[list[str], Field(min_length=1, max_length=2)]


class PredictBody(_RunBody, _Cut):
    """Texts, or pairs of texts, to classify."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"inputs": "I like it"}, {"inputs": [["a"], ["b"]]}]}
    )

    inputs: Annotated[
        str | _Sequence | Annotated[list[_Sequence], Field(fail_fast=True)],
        WrapValidator(_sequence),
    ] = Field(
        description="A text, a pair `[text, text]`, or several: `[[text], [text]]`, or of pairs."
    )
    raw_scores: bool = Field(default=False, description="Logits as scores, not probabilities.")


class TokenizeBody(_Lenient):
    """Texts to cut into tokens."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": ["one text", "two"]}]})

    model: Name | None = None
    inputs: Text | Annotated[list[Text], Field(fail_fast=True)]
    add_special_tokens: bool = True
    prompt_name: Name | None = Field(
        default=None, description="Name of one of the model's templates."
    )


class DecodeBody(_Lenient):
    """Token ids to turn into text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [[101, 2028, 102]]}]})

    model: Name | None = None
    ids: Ids | Annotated[list[Ids], Field(fail_fast=True)]
    skip_special_tokens: bool = True


class TeiRank(BaseModel):
    """One text of a ranking."""

    index: int
    score: float = Field(
        description="(1 + cosine with the query) / 2, or a cross-encoder's probability; with "
        "`raw_scores` the cosine or logit itself."
    )
    text: str | None = Field(default=None, description="With `return_text`.")


class Prediction(BaseModel):
    """A class, and how likely it is."""

    score: float = Field(description="Probability; with `raw_scores` the logit.")
    label: str


class SimpleToken(BaseModel):
    """One token."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Pooling(BaseModel):
    """How token vectors become one."""

    pooling: str | None


class Labels(BaseModel):
    """Classes by number, and numbers by class."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(BaseModel):
    """What the model is for: one of these."""

    embedding: Pooling | None = None
    classifier: Labels | None = None
    reranker: Labels | None = None

    @model_serializer(mode="wrap")
    def _only_given(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialise(self).items() if value is not None}


class TeiInfo(BaseModel):
    """The model and the limits."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    model_sha: str | None = Field(description="SHA-256 of its weights.")
    model_dtype: str
    served_model_name: str
    model_type: ModelType
    max_concurrent_requests: int = Field(description="Inputs admitted and not yet answered.")
    max_input_length: int = Field(description="Tokens.")
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool = True
    tokenization_workers: int
    version: str
    sha: str | None = None
    docker_label: str | None = None
    matryoshka_dimensions: list[int] | None = Field(
        description="What `dimensions` may be; null where vectors are not cut."
    )


class TeiError(BaseModel):
    """Body of every error but 401, which has none."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
    field: str | None
    feasible: float | None = Field(
        default=None, description="Of a budget that cannot be met: the nearest value that can."
    )
    details: list[dict[str, str | None]] | None = Field(
        default=None, description="Every fault found, where there are several."
    )

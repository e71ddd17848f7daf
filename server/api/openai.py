"""`POST /v1/embeddings`: OpenAI's protocol, with our budget beside its own fields.

The budget comes in the body (the SDK's ``extra_body``) or in ``x-rheostat-*`` headers; a limit in
the body goes before the same one in a header. The receipt goes back in both.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.core import Axis, Value
from server.api.answer import receipt_headers, receipt_of, unless_gone
from server.api.body import check_count, read_json
from server.api.budget import merged_budget
from server.api.schema import BudgetBody, Name, Receipt, inlined, request_docs
from server.caller import caller_of
from server.catalog import Served
from server.choose import Question
from server.decode import Passage
from server.errors import ClientError, InvalidRequestError, RheostatError, UnknownModelError
from server.service import Service

PATHS = ("/v1/embeddings", "/embeddings")
_Text = Annotated[str, Field(strict=True)]
_Ids = Annotated[list[Annotated[int, Field(strict=True)]], Field(fail_fast=True)]


class EmbeddingsBody(BaseModel):
    """What OpenAI's clients send, and our own fields."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"model": "minilm-2d", "input": ["one text", "two"], "budget": {"fraction": 0.5}}
            ]
        },
    )

    model: Name
    input: _Text | _Ids | Annotated[list[_Text], Field(fail_fast=True)] | list[_Ids] = Field(
        description="A text, several, token ids of the model's own tokenizer, or several such "
        "lists. Token ids are used as they are; no special token is added."
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: little-endian float32."
    )
    dimensions: int | None = Field(
        default=None, gt=0, strict=True, description="Leading dimensions, one of the axis dim."
    )
    user: str | None = Field(default=None, description="Not used.")
    budget: BudgetBody | None = Field(default=None, description="For each text.")
    preferences: dict[Name, Annotated[float, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="Weight of each measured task; default: equal."
    )
    prompt: Name | None = Field(default=None, description="Name of one of the model's templates.")
    truncate: Literal["left", "right"] | None = Field(
        default=None, description="Which end to cut of a text that is too long; default: refuse it."
    )


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


class OpenAIErrorFields(BaseModel):
    """What is wrong, in the four fields that OpenAI's clients expect."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """Body of every error."""

    error: OpenAIErrorFields


def form(error: RheostatError, _request_id: str) -> Response:
    """Spell an error as OpenAI does; what is wrong with the request is 400."""
    status = 400 if error.status == 422 else error.status
    kind = "invalid_request_error" if isinstance(error, ClientError) else "server_error"
    code = "model_not_found" if isinstance(error, UnknownModelError) else error.error_type
    body = OpenAIErrorFields(
        message=error.message,
        type="rate_limit_error" if status == 429 else kind,
        param=error.field,
        code=code,
    )
    headers = dict(error.headers)
    return JSONResponse({"error": body.model_dump()}, status_code=status, headers=headers)


FORMS = dict.fromkeys(PATHS, form)
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIError} for status in (400, 404, 413, 415, 429, 500, 503)
}


def routes(service: Service, max_texts: int) -> APIRouter:
    """Return the routes of this protocol.

    Args:
        service: Answers.
        max_texts: Most texts in one request.
    """
    router = APIRouter(tags=["embeddings"])

    async def embeddings(request: Request, response: Response) -> EmbeddingsAnswer:
        """Embed texts with the best subnet that the budget allows."""
        with service.metrics.request() as tally:
            body = await read_json(request, EmbeddingsBody)
            served = service.catalog.choose(body.model)
            tally.model = served.name
            passages = _passages(body, max_texts)
            question = Question(
                tasks=None,
                preferences=body.preferences,
                budget=merged_budget(body.budget, request.headers),
                fixed=_fixed(served, body.dimensions),
                caller=caller_of(request),
            )
            answer = await unless_gone(request, service.infer(served, question, passages))
        receipt = receipt_of(served, answer)
        response.headers.update(receipt_headers(receipt))
        vectors = [next(iter(outputs.values())) for outputs in answer.outputs]
        num_tokens = sum(answer.num_tokens)
        return EmbeddingsAnswer(
            data=[
                EmbeddingEntry(index=i, embedding=_encoded(vector, body.encoding_format))
                for i, vector in enumerate(vectors)
            ],
            model=served.name,
            usage=Usage(prompt_tokens=num_tokens, total_tokens=num_tokens),
            receipt=receipt,
        )

    for path in PATHS:
        router.add_api_route(
            path,
            embeddings,
            methods=["POST"],
            openapi_extra=request_docs(json=inlined(EmbeddingsBody)),
            responses=_ERRORS,
            include_in_schema=path == PATHS[0],
        )
    return router


def _passages(body: EmbeddingsBody, max_texts: int) -> list[Passage]:
    given = body.input
    many: Sequence[str | Sequence[int]]
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        many, fields = [given], ["input"]  # a text or its ids
    else:
        many, fields = given, [f"input[{i}]" for i in range(len(given))]  # type: ignore[assignment]
    if not many:
        raise InvalidRequestError("input is empty; at least one text is needed", "input")
    check_count("input", len(many), max_texts, "max_texts")
    return [
        Passage(field, content, body.prompt, body.truncate)
        for field, content in zip(fields, many, strict=True)
    ]


def _fixed(served: Served, dimensions: int | None) -> Mapping[str, Value]:
    if dimensions is None:
        return served.whole_outputs
    axis: Axis | None = next((a for a in served.elastic.space.axes if a.name == "dim"), None)
    if axis is None or len(axis.values) == 1:
        raise InvalidRequestError(
            "This model does not support specifying dimensions.", "dimensions"
        )
    if dimensions not in axis.values:
        raise InvalidRequestError(
            f"dimensions={dimensions} is not allowed; one of {list(axis.values)}", "dimensions"
        )
    return {axis.name: dimensions}


def _encoded(vector: Tensor, form: str) -> list[float] | str:
    if form == "float":
        return vector.tolist()
    little_endian = vector.float().numpy().astype("<f4", copy=False)
    return base64.b64encode(little_endian.tobytes()).decode()

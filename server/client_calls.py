"""What the Python client sends and how it reads the answers: pure functions, no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from server.api.rheostat.models_schema import ModelDetail, ModelEntry, ModelList
from server.api.rheostat.schema import BudgetBody as Budget
from server.api.rheostat.schema import InferAnswer, PlanAnswer, PlanReceipt, Receipt
from server.api.rheostat.text_schema import (
    CascadeBody,
    EmbeddingsAnswer,
    RerankAnswer,
    SimilarityAnswer,
    Usage,
)

T = TypeVar("T", covariant=True)
BodyT = TypeVar("BodyT", bound=BaseModel)
Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how to read its answer.

    Attributes:
        method: Of HTTP.
        path: From the server's root.
        parse: Reads the response.
        body: What httpx takes: ``json``, or ``files`` and ``data``.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    body: Mapping[str, Any]


class Embeddings(NamedTuple):
    """Vectors of texts.

    Attributes:
        vectors: In the order of the texts, of length 1, shape [texts, dimensions].
        usage: Tokens read.
        receipt: What ran, and what it cost.
    """

    vectors: npt.NDArray[np.float32]
    usage: Usage
    receipt: Receipt


def infer(
    image: bytes | Sequence[bytes],
    *,
    model: str | None = None,
    tasks: Sequence[str] | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
) -> Call[InferAnswer]:
    """Run the best subnet that the budget allows on images.

    Args:
        image: A PNG, JPEG or WebP file's bytes, or several.
        model: Its name; None for the only one that takes images.
        tasks: What to answer; None for every task.
        preferences: Weight of each task; None for equal weights.
        budget: For each image; None for the largest subnet.
        priority: 0 is the highest.
    """
    images = [image] if isinstance(image, bytes) else image
    asked = _given(
        model=model, tasks=tasks, preferences=preferences, budget=budget, priority=priority
    )
    body = {
        "files": [("image", (f"image{i}", one)) for i, one in enumerate(images)],
        "data": {"request": json.dumps(asked)},
    }
    return Call("POST", "/v1/infer", _reader(InferAnswer), body)


def plan(
    *,
    model: str | None = None,
    tasks: Sequence[str] | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    tokens: int | None = None,
) -> Call[PlanReceipt]:
    """Return the subnet that would run, as if nobody waited, without running it.

    Args:
        model: Its name; None for the only one that takes images, or texts if `tokens` is given.
        tasks: As in `infer`.
        preferences: Likewise.
        budget: Likewise.
        tokens: Length of a text.
    """
    asked = _given(model=model, tasks=tasks, preferences=preferences, budget=budget, tokens=tokens)
    read = _reader(PlanAnswer)
    return Call("POST", "/v1/plan", lambda response: read(response).receipt, {"json": asked})


def embed(
    texts: str | Sequence[str],
    *,
    model: str | None = None,
    dimensions: int | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    prompt: str | None = None,
    truncate: Side | None = None,
) -> Call[Embeddings]:
    """Embed texts with the best subnet that the budget allows.

    Args:
        texts: One or several; one makes one row.
        model: Its name; None for the only one that takes texts.
        dimensions: Leading ones to keep, of the model's `matryoshka_dimensions`; None for all.
        preferences: Weight of each measured task; None for equal weights.
        budget: For each text; None for the largest subnet.
        priority: 0 is the highest.
        prompt: Name of one of the model's templates.
        truncate: Which end to cut of a text that is too long; None to refuse it.
    """
    asked = _given(
        model=model,
        input=texts,
        dimensions=dimensions,
        encoding_format="base64",
        preferences=preferences,
        budget=budget,
        priority=priority,
        prompt=prompt,
        truncate=truncate,
    )
    return Call("POST", "/v1/embeddings", _read_embeddings, {"json": asked})


def rerank(
    query: str,
    documents: Sequence[str],
    *,
    model: str | None = None,
    top_n: int | None = None,
    cascade: CascadeBody | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    max_tokens_per_doc: int | None = None,
    return_documents: bool | None = None,
    truncate: Side | None = None,
) -> Call[RerankAnswer]:
    """Put documents in order of their similarity to a query.

    Args:
        query: A text.
        documents: Texts.
        model: Its name; None for the only one that takes texts.
        top_n: Return only so many; None for all.
        cascade: Score all at a shallow exit, and only the best at the chosen one.
        preferences: Weight of each measured task; None for equal weights.
        budget: For each text; None for the largest subnet.
        priority: 0 is the highest.
        query_prompt: Template for the query.
        document_prompt: Template for documents.
        max_tokens_per_doc: Cut longer documents.
        return_documents: Repeat the texts in the answer.
        truncate: Which end to cut of a text that is too long; None to refuse it.
    """
    asked = _given(
        model=model,
        query=query,
        documents=list(documents),
        top_n=top_n,
        cascade=cascade and cascade.model_dump(),
        preferences=preferences,
        budget=budget,
        priority=priority,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_tokens_per_doc=max_tokens_per_doc,
        return_documents=return_documents,
        truncate=truncate,
    )
    return Call("POST", "/v1/rerank", _reader(RerankAnswer), {"json": asked})


def similarity(
    source: str,
    texts: Sequence[str],
    *,
    model: str | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    truncate: Side | None = None,
) -> Call[SimilarityAnswer]:
    """Return the cosine of each text with one; arguments as in `rerank`."""
    asked = _given(
        model=model,
        source=source,
        texts=list(texts),
        preferences=preferences,
        budget=budget,
        priority=priority,
        truncate=truncate,
    )
    return Call("POST", "/v1/similarity", _reader(SimilarityAnswer), {"json": asked})


def models() -> Call[list[ModelEntry]]:
    """List the models served."""
    read = _reader(ModelList)
    return Call("GET", "/v1/models", lambda response: read(response).data, {})


def model(name: str) -> Call[ModelDetail]:
    """Describe one model: its axes, tasks, input, cost and Pareto front."""
    return Call("GET", f"/v1/models/{quote(name, safe='')}", _reader(ModelDetail), {})


def _given(*, budget: Budget | None, **fields: Any) -> dict[str, Any]:
    """Return the fields that are not None, a budget as its limits."""
    limits = {name: limit for name, limit in budget.model_dump().items() if limit} if budget else {}
    found = {name: value for name, value in fields.items() if value is not None}
    return {**found, "budget": limits} if limits else found


def _reader(model: type[BodyT]) -> Callable[[httpx.Response], BodyT]:
    return lambda response: model.model_validate_json(response.content)


def _read_embeddings(response: httpx.Response) -> Embeddings:
    answer = EmbeddingsAnswer.model_validate_json(response.content)
    packed = b"".join(base64.b64decode(str(entry.embedding)) for entry in answer.data)
    flat = np.frombuffer(packed, dtype="<f4").astype(np.float32)
    return Embeddings(flat.reshape(len(answer.data), -1), answer.usage, answer.receipt)

"""What the client sends and how it reads the answers: pure functions, no network."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import quote

import httpx

from rheostat.answers import Embeddings, EmbeddingsAnswer, InferAnswer, PlanAnswer, PlanReceipt
from rheostat.asked import Budget, Cascade
from rheostat.bodies import given, json_body, reader, texts_of
from rheostat.call import Call
from rheostat.model_answers import ModelDetail, ModelEntry, ModelList
from rheostat.ranking_answers import RerankAnswer, SimilarityAnswer
from rheostat.reading import from_json

T = TypeVar("T")
Side = Literal["left", "right"]
SearchSide = Literal["query", "document"]
Item: TypeAlias = Mapping[str, Any]
"""Inputs by name."""


def infer(
    image: bytes | Sequence[bytes] | None = None,
    *,
    inputs: Item | Sequence[Item] | None = None,
    model: str | None = None,
    tasks: Sequence[str] | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    side: SearchSide | None = None,
    adapter: str | None = None,
) -> Call[InferAnswer]:
    """Run the best subnet that the budget allows, on images or on inputs by name.

    Args:
        image: A PNG, JPEG or WebP file's bytes, or several.
        inputs: In place of images, one item or several: by the model's names of inputs the bytes
            of an image, a text, token ids, or nested lists of numbers.
        model: Its name; None for the only one that takes such inputs.
        tasks: What to answer; None for every task.
        preferences: Weight of each task; None for equal weights.
        budget: For each item; None for the largest subnet.
        priority: 0 is the highest.
        side: Of a search that texts are, whose other side is of the whole model.
        adapter: Name of one of the model's; empty for none, None for the client's own.

    Raises:
        TypeError: If an image is no file's bytes, or images and inputs are both given, or neither.
    """
    if (image is None) == (inputs is None):
        raise TypeError("give either image or inputs")
    asked = given(
        model=model,
        tasks=tasks,
        preferences=preferences,
        budget=budget,
        priority=priority,
        side=side,
        adapter=adapter,
    )
    if inputs is not None:
        items = [inputs] if isinstance(inputs, Mapping) else list(inputs)
        asked["inputs"] = [{name: _input(one) for name, one in item.items()} for item in items]
        return Call("POST", "/v1/infer", reader(InferAnswer), json_body(asked))
    assert image is not None
    images = [image] if isinstance(image, bytes) else list(image)
    for i, one in enumerate(images):
        if not isinstance(one, bytes):
            raise TypeError(f"image[{i}] is {one!r}; an image is the bytes of its file")
    parts: list[tuple[str, tuple[str | None, str | bytes]]] = [
        ("request", (None, json.dumps(asked))),
        *(("image", (f"image{i}", one)) for i, one in enumerate(images)),
    ]
    return Call("POST", "/v1/infer", reader(InferAnswer), {"files": parts})


def _input(value: Any) -> Any:
    """Return an input as JSON has it."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def plan(
    *,
    model: str | None = None,
    tasks: Sequence[str] | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    tokens: int | None = None,
    side: SearchSide | None = None,
    adapter: str | None = None,
) -> Call[PlanReceipt]:
    """Return the subnet that would run, as if nobody waited, without running it.

    Args:
        model: Its name; None for the only one that takes images, or texts if `tokens` is given.
        tasks: As in `infer`.
        preferences: Likewise.
        budget: Likewise.
        tokens: Length of a text.
        side: As in `infer`.
        adapter: Likewise.
    """
    asked = given(
        model=model,
        tasks=tasks,
        preferences=preferences,
        budget=budget,
        tokens=tokens,
        side=side,
        adapter=adapter,
    )
    read = reader(PlanAnswer)
    return Call("POST", "/v1/plan", lambda response: read(response).receipt, json_body(asked))


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
    side: SearchSide | None = None,
    adapter: str | None = None,
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
        side: Of a search that the texts are, whose other side is of the whole model.
        adapter: As in `infer`.
    """
    asked = given(
        model=model,
        input=texts,
        dimensions=dimensions,
        encoding_format="base64",
        preferences=preferences,
        budget=budget,
        priority=priority,
        prompt=prompt,
        truncate=truncate,
        side=side,
        adapter=adapter,
    )
    return Call("POST", "/v1/embeddings", _read_embeddings, json_body(asked))


def rerank(
    query: str,
    documents: Sequence[str],
    *,
    model: str | None = None,
    top_n: int | None = None,
    cascade: Cascade | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    max_tokens_per_doc: int | None = None,
    return_documents: bool | None = None,
    truncate: Side | None = None,
    in_stages: bool | None = None,
    adapter: str | None = None,
    lexical_weight: float | None = None,
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
        in_stages: Whether some documents may get more of the budget than others, and the best
            order after ``latency_ms`` is the answer. None: if there is one.
        adapter: As in `infer`.
        lexical_weight: Of the query's words in a document, beside the model's score; None for 0.

    Raises:
        TypeError: If the documents are one text.
    """
    asked = given(
        model=model,
        query=query,
        documents=texts_of("documents", documents),
        top_n=top_n,
        cascade=cascade and asdict(cascade),
        preferences=preferences,
        budget=budget,
        priority=priority,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_tokens_per_doc=max_tokens_per_doc,
        return_documents=return_documents,
        truncate=truncate,
        in_stages=in_stages,
        adapter=adapter,
        lexical_weight=lexical_weight,
    )
    return Call("POST", "/v1/rerank", reader(RerankAnswer), json_body(asked))


def similarity(
    source: str,
    texts: Sequence[str],
    *,
    model: str | None = None,
    preferences: Mapping[str, float] | None = None,
    budget: Budget | None = None,
    priority: int | None = None,
    truncate: Side | None = None,
    adapter: str | None = None,
) -> Call[SimilarityAnswer]:
    """Return the cosine of each text with one; arguments as in `rerank`."""
    asked = given(
        model=model,
        source=source,
        texts=texts_of("texts", texts),
        preferences=preferences,
        budget=budget,
        priority=priority,
        truncate=truncate,
        adapter=adapter,
    )
    return Call("POST", "/v1/similarity", reader(SimilarityAnswer), json_body(asked))


def models() -> Call[list[ModelEntry]]:
    """List the models served."""
    read = reader(ModelList)
    return Call("GET", "/v1/models", lambda response: read(response).data, {})


def model(name: str) -> Call[ModelDetail]:
    """Describe one model: its axes, tasks, input, cost and Pareto front."""
    return Call("GET", f"/v1/models/{quote(name, safe='')}", reader(ModelDetail), {})


def _read_embeddings(response: httpx.Response) -> Embeddings:
    answer = from_json(EmbeddingsAnswer, response.content)
    vectors: list[Sequence[float]] = [_vector(entry.embedding) for entry in answer.data]
    return Embeddings(vectors=vectors, usage=answer.usage, receipt=answer.receipt)


def _vector(packed: str) -> array[float]:
    vector = array("f")
    vector.frombytes(base64.b64decode(packed, validate=True))
    if sys.byteorder == "big":
        vector.byteswap()
    return vector

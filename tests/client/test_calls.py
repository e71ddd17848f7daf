"""What the client sends, held against the server's own schemas, which refuse unknown fields."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from rheostat import Budget, Cascade, calls, classify_calls, index_calls
from rheostat.call import Call
from server.api.rheostat.classify import ClassifyBody
from server.api.rheostat.index_schema import NeighborsBody, StoredRerankBody
from server.api.rheostat.schema import FullPlanBody, PlanBody
from server.api.rheostat.text_schema import EmbeddingsBody, RerankBody, SimilarityBody

LIMITS = {
    "flops": 1e6,
    "macs": 5e5,
    "fraction": 0.5,
    "min_quality": 0.9,
    "latency_ms": 20.0,
    "bytes": 4e6,
}
BUDGET = Budget(**LIMITS, strict=False)
COMMON = {"model": "m", "preferences": {"a": 2.0}, "budget": BUDGET, "adapter": "legal"}
TEXT = {**COMMON, "priority": 3, "truncate": "left"}

STORED = {"query": "q", "index": "i", "return_documents": True, **TEXT}
del STORED["preferences"], STORED["adapter"]
KEPT = {"index": "i", **TEXT}
del KEPT["model"], KEPT["adapter"]

FULL: list[tuple[Callable[..., Call[Any]], dict[str, Any], type[BaseModel]]] = [
    (
        calls.infer,
        {**COMMON, "image": b"png", "tasks": ["a"], "priority": 3, "side": "query"},
        PlanBody,
    ),
    (calls.plan, {**COMMON, "tasks": ["a"], "tokens": 7, "side": "query"}, FullPlanBody),
    (
        calls.embed,
        {**TEXT, "texts": ["x"], "dimensions": 8, "prompt": "query", "side": "query"},
        EmbeddingsBody,
    ),
    (
        calls.rerank,
        {
            **TEXT,
            "query": "q",
            "documents": ("x", "y"),
            "top_n": 1,
            "cascade": Cascade(depth=1, keep=2),
            "query_prompt": "query",
            "document_prompt": "document",
            "max_tokens_per_doc": 9,
            "return_documents": True,
            "in_stages": False,
            "lexical_weight": 0.5,
        },
        RerankBody,
    ),
    (
        index_calls.rerank_stored,
        {**STORED, "ids": ("a", "b"), "top_n": 1, "raw_scores": True},
        StoredRerankBody,
    ),
    (index_calls.neighbors, {**STORED, "k": 3, "calls": 20}, NeighborsBody),
    (
        classify_calls.classify,
        {
            **TEXT,
            "texts": "x",
            "labels": ("a", "b"),
            "top_k": 1,
            "prompt": "query",
            "label_prompt": "document",
        },
        ClassifyBody,
    ),
    (
        classify_calls.classify_stored,
        {**KEPT, "texts": "x", "top_k": 1, "prompt": "query"},
        ClassifyBody,
    ),
    (calls.similarity, {**TEXT, "source": "q", "texts": ("x", "y")}, SimilarityBody),
]


OTHERS = {"inputs"}  # in place of an image


def named(one: object) -> str:
    return getattr(one, "__name__", "arguments")


def sent(call: Call[Any]) -> dict[str, Any]:
    body = call.body
    if "content" in body:
        return dict(json.loads(body["content"]))
    return dict(json.loads(dict(body["files"])["request"][1]))


@pytest.mark.parametrize(("build", "arguments", "schema"), FULL, ids=named)
def test_every_argument_is_a_field_that_the_server_knows(
    build: Callable[..., Call[Any]], arguments: dict[str, Any], schema: type[BaseModel]
) -> None:
    assert {*arguments, *OTHERS} == {*inspect.signature(build).parameters, *OTHERS}
    asked = sent(build(**arguments))
    schema.model_validate_json(json.dumps(asked))
    assert asked["budget"] == {**LIMITS, "strict": False}
    assert asked.get("preferences", {"a": 2.0}) == {"a": 2.0}


def test_what_is_not_given_is_not_sent() -> None:
    assert sent(calls.plan(budget=Budget())) == {}
    assert sent(calls.embed("x")) == {"input": "x", "encoding_format": "base64"}


@pytest.mark.parametrize("strict", [True, False])
def test_strict_is_sent_without_a_limit(strict: bool) -> None:
    assert sent(calls.plan(budget=Budget(strict=strict))) == {"budget": {"strict": strict}}


def test_one_text_is_not_taken_for_many() -> None:
    with pytest.raises(TypeError, match="documents is one text; it must be a list of texts"):
        calls.rerank("q", "abc")
    with pytest.raises(TypeError, match="texts is one text"):
        calls.similarity("q", "abc")


def test_an_image_is_bytes() -> None:
    path: Any = "photo.jpg"
    with pytest.raises(TypeError, match=r"image\[0\] is 'p'; an image is the bytes of its file"):
        calls.infer(path)
    with pytest.raises(TypeError, match=r"image\[1\] is None"):
        calls.infer([b"png", None])  # type: ignore[list-item]

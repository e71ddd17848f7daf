"""LiteLLM, by the providers that work without the network."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import pytest

from tests.ecosystem.conftest import MODEL, QUERY, TEXTS, Check

EMBEDDING = [
    ("openai", "/v1"),
    ("litellm_proxy", "/v1"),
    ("lm_studio", "/v1"),
    ("xinference", "/v1"),
    ("nvidia_nim", "/v1"),
    ("hosted_vllm", "/v1"),
    ("jina_ai", "/v1"),
    ("infinity", ""),
    ("infinity", "/v1"),
]
RERANK = [
    ("cohere", ""),
    ("hosted_vllm", ""),
    ("hosted_vllm", "/v1"),
    ("jina_ai", "/v1"),
    ("huggingface", ""),
]


def vectors(answer: Any) -> list[list[float]]:
    return [row["embedding"] for row in sorted(answer.data, key=lambda row: row["index"])]


@pytest.mark.parametrize(("provider", "path"), EMBEDDING)
def test_texts_are_embedded(url: str, same: Check, provider: str, path: str) -> None:
    asked: dict[str, Any] = {
        "model": f"{provider}/{MODEL}",
        "input": TEXTS,
        "api_base": url + path,
        "api_key": "none",
    }
    same(vectors(litellm.embedding(**asked)))
    same(vectors(asyncio.run(litellm.aembedding(**asked))))


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_null_for_what_the_caller_left_out_is_no_obstacle(
    url: str, same: Check, provider: str
) -> None:
    asked = {"model": f"{provider}/{MODEL}", "input": TEXTS, "api_base": f"{url}/v1"}
    for form in (None, "float"):
        answer = litellm.embedding(**asked, api_key="none", encoding_format=form, dimensions=None)
        same(vectors(answer))
        assert answer.usage.prompt_tokens > len(TEXTS)


@pytest.mark.parametrize("path", ["", "/embed"])
def test_teis_protocol_embeds(url: str, same: Check, path: str) -> None:
    answer = litellm.embedding(
        model=f"huggingface/{MODEL}",
        input=TEXTS,
        api_base=url + path,
        api_key="none",
        input_type="embed",  # else the hub is asked what the model is for
    )
    same(vectors(answer))


@pytest.mark.parametrize(("provider", "path"), RERANK)
def test_documents_are_ranked_and_come_back(
    url: str, ranks: Check, provider: str, path: str
) -> None:
    asked: dict[str, Any] = {
        "model": f"{provider}/{MODEL}",
        "query": QUERY,
        "documents": TEXTS,
        "api_base": url + path,
        "api_key": "none",
    }
    answer = litellm.rerank(**asked)  # asks for documents unless told otherwise
    ranks([one["index"] for one in answer.results])
    texts = [one["document"]["text"] for one in answer.results]
    assert texts == [TEXTS[one["index"]] for one in answer.results]
    ranks([one["index"] for one in asyncio.run(litellm.arerank(**asked)).results])
    few = litellm.rerank(**asked, top_n=2, return_documents=False)
    if provider != "huggingface":  # TEI's protocol has no `top_n`
        assert len(few.results) == 2


def test_infinitys_way_of_repeating_documents_is_not_had(url: str, ranks: Check) -> None:
    """They are bare texts there, and objects in every other protocol of this path."""
    asked: dict[str, Any] = {
        "model": f"infinity/{MODEL}",
        "query": QUERY,
        "documents": TEXTS,
        "api_base": url,
        "api_key": "none",
    }
    answer = litellm.rerank(**asked, return_documents=False)
    ranks([one["index"] for one in answer.results])
    with pytest.raises(litellm.APIConnectionError):
        litellm.rerank(**asked)

"""The SDKs that the others are made of: openai, cohere, huggingface_hub, infinity's."""

from __future__ import annotations

import asyncio
from typing import Any

import cohere
import numpy as np
import openai
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from infinity_client import Client as InfinityClient
from infinity_client.api.default import embeddings as infinity_embeddings
from infinity_client.api.default import rerank as infinity_rerank
from infinity_client.models import OpenAIEmbeddingInputText, RerankInput

from tests.ecosystem.conftest import LONG, MODEL, QUERY, TEXTS, Check


def vectors(answer: Any) -> list[list[float]]:
    return [row.embedding for row in answer.data]


def test_openais(url: str, same: Check) -> None:
    async def asked() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            return await client.embeddings.create(model=MODEL, input=TEXTS)

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        same(vectors(client.embeddings.create(model=MODEL, input=TEXTS)))
        floats = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
        same(vectors(floats))
        cut = client.embeddings.create(model=MODEL, input=TEXTS, dimensions=64, user="me")
        assert np.array(vectors(cut)).shape == (len(TEXTS), 64)
        assert MODEL in {model.id for model in client.models.list()}
    same(vectors(asyncio.run(asked())))


@pytest.mark.parametrize("version", [cohere.Client, cohere.ClientV2])
def test_coheres(url: str, ranks: Check, version: Any) -> None:
    client = version(api_key="none", base_url=url)
    found = client.rerank(model=MODEL, query=QUERY, documents=TEXTS)
    ranks([one.index for one in found.results])


@pytest.mark.parametrize("version", [cohere.AsyncClient, cohere.AsyncClientV2])
def test_coheres_asynchronous(url: str, ranks: Check, version: Any) -> None:
    async def asked() -> Any:
        async with version(api_key="none", base_url=url) as client:
            return await client.rerank(model=MODEL, query=QUERY, documents=TEXTS, top_n=10)

    ranks([one.index for one in asyncio.run(asked()).results])


def test_coheres_first_version_with_all_it_has(url: str, ranks: Check) -> None:
    documents = [{"title": f"number {i}", "text": text} for i, text in enumerate(TEXTS)]
    found: Any = cohere.Client(api_key="none", base_url=url).rerank(
        model=MODEL,
        query=QUERY,
        documents=documents,
        rank_fields=["text"],
        max_chunks_per_doc=10,
        return_documents=True,
        top_n=len(TEXTS),
    )
    ranks([one.index for one in found.results])
    assert [one.document.title for one in found.results] == [
        documents[one.index]["title"] for one in found.results
    ]


def test_coheres_second_version_cuts_long_documents(url: str) -> None:
    client = cohere.ClientV2(api_key="none", base_url=url)
    found = client.rerank(
        model=MODEL, query=QUERY, documents=[LONG, TEXTS[0]], max_tokens_per_doc=64
    )
    assert [one.index for one in found.results] == [1, 0]


def test_hugging_faces(url: str, same: Check, ranks: Check) -> None:
    client = InferenceClient(base_url=url)
    same(client.feature_extraction(TEXTS))
    same(np.concatenate([client.feature_extraction(text) for text in TEXTS]))
    raw = client.feature_extraction(TEXTS, normalize=False, truncate=True)
    same(raw)
    assert (abs(np.linalg.norm(raw, axis=1) - 1) > 0.1).all()

    async def asked() -> Any:
        async with AsyncInferenceClient(base_url=url) as client:
            return await client.feature_extraction(TEXTS)

    same(asyncio.run(asked()))
    likeness = InferenceClient(base_url=f"{url}/similarity").sentence_similarity(
        QUERY, other_sentences=TEXTS
    )
    ranks(np.argsort(-np.array(likeness)).tolist())


def test_infinitys(url: str, same: Check, ranks: Check) -> None:
    with InfinityClient(base_url=url) as client:
        body = OpenAIEmbeddingInputText(input_=TEXTS, model=MODEL)  # sends `dimensions` 0
        same(vectors(infinity_embeddings.sync(client=client, body=body)))
        asked = RerankInput(query=QUERY, documents=TEXTS, model=MODEL)
        ranks([one.index for one in infinity_rerank.sync(client=client, body=asked).results])

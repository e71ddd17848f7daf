"""Haystack's embedders and rankers, as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from haystack_integrations.components.embedders.jina import (
    JinaDocumentEmbedder,
    JinaTextEmbedder,
)
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker

from tests.ecosystem.conftest import LONG, MODEL, QUERY, TEXTS, Check

KEY = Secret.from_token("none")
Make = Callable[[str], Any]


def openai_text(url: str) -> Any:
    return OpenAITextEmbedder(api_key=KEY, model=MODEL, api_base_url=f"{url}/v1")


def openai_documents(url: str) -> Any:
    return OpenAIDocumentEmbedder(api_key=KEY, model=MODEL, api_base_url=f"{url}/v1")


def jina_text(url: str) -> Any:
    return JinaTextEmbedder(api_key=KEY, model=MODEL, base_url=f"{url}/v1/embeddings")


def jina_documents(url: str) -> Any:
    return JinaDocumentEmbedder(api_key=KEY, model=MODEL, base_url=f"{url}/v1/embeddings")


def tei_text(url: str) -> Any:
    return HuggingFaceAPITextEmbedder(
        api_type="text_embeddings_inference", api_params={"url": url}, token=None
    )


def tei_documents(url: str) -> Any:
    return HuggingFaceAPIDocumentEmbedder(
        api_type="text_embeddings_inference", api_params={"url": url}, token=None
    )


def cohere_ranker(url: str) -> Any:
    return CohereRanker(model=MODEL, api_key=KEY, api_base_url=url)


def jina_ranker(url: str) -> Any:
    return JinaRanker(api_key=KEY, model=MODEL, base_url=f"{url}/v1/rerank")


def tei_ranker(url: str) -> Any:
    return HuggingFaceTEIRanker(url=url, token=None)


def started(make: Make, url: str) -> Any:
    component = make(url)
    if hasattr(component, "warm_up"):
        component.warm_up()
    return component


@pytest.mark.parametrize("make", [openai_text, jina_text, tei_text])
def test_texts_are_embedded(url: str, same: Check, make: Make) -> None:
    embedder = started(make, url)
    same([embedder.run(text=text)["embedding"] for text in TEXTS])


@pytest.mark.parametrize("make", [openai_documents, jina_documents, tei_documents])
def test_documents_are_embedded(url: str, same: Check, make: Make) -> None:
    documents = [Document(content=text) for text in TEXTS]
    same([one.embedding for one in started(make, url).run(documents=documents)["documents"]])


def test_teis_embedders_ask_for_vectors_as_pooled_and_get_them(
    url: str, post: Callable[..., Any]
) -> None:
    found = started(tei_text, url).run(text=TEXTS[0])["embedding"]
    (pooled,) = post("/embed", inputs=TEXTS[0], normalize=False)
    np.testing.assert_allclose(found, pooled, rtol=1e-4, atol=1e-4)
    assert abs(np.linalg.norm(found) - 1) > 0.1


@pytest.mark.parametrize("make", [cohere_ranker, jina_ranker, tei_ranker])
def test_documents_are_ranked(url: str, ranks: Check, make: Make) -> None:
    documents = [Document(content=text) for text in TEXTS]
    found = started(make, url).run(query=QUERY, documents=documents)["documents"]
    ranks([TEXTS.index(one.content) for one in found])


@pytest.mark.parametrize("make", [cohere_ranker, tei_ranker])
def test_long_documents_are_cut_as_there(url: str, make: Make) -> None:
    documents = [Document(content=LONG)]
    assert len(started(make, url).run(query=QUERY, documents=documents)["documents"]) == 1

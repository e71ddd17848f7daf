"""llama-index's embeddings and rerankers, as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.jinaai import JinaEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.ecosystem.conftest import MODEL, QUERY, TEXTS, Check

Make = Callable[[str], Any]


def openai_embedding(url: str) -> Any:
    return OpenAIEmbedding(model_name=MODEL, api_base=f"{url}/v1", api_key="none")


def openai_like(url: str) -> Any:
    return OpenAILikeEmbedding(model_name=MODEL, api_base=f"{url}/v1", api_key="none")


def tei(url: str) -> Any:
    return TextEmbeddingsInference(model_name=MODEL, base_url=url)


def jina(url: str) -> Any:
    embedding = JinaEmbedding(model=MODEL, api_key="none")
    embedding._api.api_url = f"{url}/v1/embeddings"  # there is no argument for it
    return embedding


@pytest.mark.parametrize("make", [openai_embedding, openai_like, tei, jina])
def test_texts_are_embedded(url: str, same: Check, make: Make) -> None:
    embedding = make(url)
    same(embedding.get_text_embedding_batch(TEXTS))
    same([embedding.get_query_embedding(text) for text in TEXTS])
    same(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)))


def cohere_rerank(url: str) -> Any:
    return CohereRerank(model=MODEL, base_url=url, api_key="none", top_n=len(TEXTS))


def jina_rerank(url: str) -> Any:
    return JinaRerank(model=MODEL, base_url=f"{url}/v1", api_key="none", top_n=len(TEXTS))


def tei_rerank(url: str) -> Any:
    return TextEmbeddingInference(base_url=url, top_n=len(TEXTS))


@pytest.mark.parametrize("make", [cohere_rerank, jina_rerank, tei_rerank])
def test_nodes_are_ranked(url: str, ranks: Check, make: Make) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    found = make(url).postprocess_nodes(nodes, query_str=QUERY)
    ranks([TEXTS.index(one.node.get_content()) for one in found])

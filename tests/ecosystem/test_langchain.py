"""LangChain's embeddings and compressors."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_cohere import CohereRerank
from langchain_core.documents import Document
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from langchain_openai import OpenAIEmbeddings

from tests.ecosystem.conftest import MODEL, QUERY, TEXTS, Check


def test_openais_embeddings_work_once_they_send_texts(url: str, same: Check) -> None:
    """By default they send token ids of OpenAI's own vocabulary, which mean nothing here."""
    embeddings = OpenAIEmbeddings(
        model=MODEL, base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    same(embeddings.embed_documents(TEXTS))
    same([embeddings.embed_query(text) for text in TEXTS])
    same(asyncio.run(embeddings.aembed_documents(TEXTS)))


def test_token_ids_of_another_vocabulary_are_refused_where_they_can_be_told(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client,
        pytest.raises(openai.BadRequestError, match="token id 69127 is not in 0"),
    ):
        client.embeddings.create(model=MODEL, input=[[9226], [69127, 82]])


def test_endpoints_of_hugging_face_embed(url: str, same: Check) -> None:
    embeddings = HuggingFaceEndpointEmbeddings(repo_id=MODEL, huggingfacehub_api_token="none")
    embeddings.client = InferenceClient(base_url=url)  # they take no address of their own
    embeddings.async_client = AsyncInferenceClient(base_url=url)
    same(embeddings.embed_documents(TEXTS))
    same([embeddings.embed_query(text) for text in TEXTS])
    same(asyncio.run(embeddings.aembed_documents(TEXTS)))


def test_documents_are_ranked(url: str, ranks: Check) -> None:
    rerank = CohereRerank(model=MODEL, base_url=url, cohere_api_key="none", top_n=len(TEXTS))
    ranks([one["index"] for one in rerank.rerank(TEXTS, QUERY)])
    documents = [Document(page_content=text, metadata={"at": i}) for i, text in enumerate(TEXTS)]
    found: Any = rerank.compress_documents(documents, QUERY)
    ranks([one.metadata["at"] for one in found])

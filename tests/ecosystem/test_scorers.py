"""Rankers of stock clients, as they are, with a model that compares two texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import litellm
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker

MODEL = "tiny-pairs"
QUERY = "w1 w3 w5"
TEXTS = [" ".join(f"w{(i * j) % 12 + 1}" for j in range(1, 5 + i % 3)) for i in range(6)]
KEY = Secret.from_token("none")
RANKERS: dict[str, Callable[[str], Any]] = {
    "cohere": lambda url: CohereRanker(model=MODEL, api_key=KEY, api_base_url=url),
    "jina": lambda url: JinaRanker(model=MODEL, api_key=KEY, base_url=f"{url}/v1/rerank"),
    "tei": lambda url: HuggingFaceTEIRanker(url=url, token=None),
}


@pytest.fixture(scope="module")
def expected(scorer_url: str) -> list[tuple[int, float]]:
    """Positions and scores, best first, without any client's ideas."""
    body = {"model": MODEL, "query": QUERY, "documents": TEXTS}
    found = httpx.post(f"{scorer_url}/v1/rerank", json=body, timeout=60).json()["results"]
    return [(one["index"], one["relevance_score"]) for one in found]


@pytest.mark.parametrize("name", RANKERS)
def test_haystack_ranks_by_the_models_own_head(
    scorer_url: str, expected: list[tuple[int, float]], name: str
) -> None:
    ranker = RANKERS[name](scorer_url)
    if hasattr(ranker, "warm_up"):
        ranker.warm_up()
    documents = [Document(content=text) for text in TEXTS]
    found = ranker.run(query=QUERY, documents=documents)["documents"]
    assert [TEXTS.index(one.content) for one in found] == [i for i, _ in expected]
    scores = [one.score for one in found]
    assert scores == pytest.approx([score for _, score in expected], abs=1e-5)
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.parametrize(
    ("provider", "path"), [("cohere", ""), ("jina_ai", "/v1"), ("huggingface", "")]
)
def test_litellm_ranks_by_the_models_own_head(
    scorer_url: str, expected: list[tuple[int, float]], provider: str, path: str
) -> None:
    answer = litellm.rerank(
        model=f"{provider}/{MODEL}",
        query=QUERY,
        documents=TEXTS,
        api_base=scorer_url + path,
        api_key="none",
    )
    found = [(one["index"], one["relevance_score"]) for one in answer.results]
    assert [i for i, _ in found] == [i for i, _ in expected]
    assert [score for _, score in found] == pytest.approx(
        [score for _, score in expected], abs=1e-5
    )

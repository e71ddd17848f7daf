"""Reranking as Cohere's SDK asks for it, against a server that listens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.conftest import Refuse

cohere = pytest.importorskip("cohere")

QUERY = "w1 w3 w5"
DOCUMENTS = ["w1 w2", "w3", "w4 w5 w6 w7", "w8 w1 w9", "w10 w11 w12"]
LONG = " ".join(["w1"] * 40)


@pytest.fixture(scope="module")
def sdk(text_url: str) -> Iterator[Any]:
    with cohere.ClientV2(api_key="none", base_url=text_url) as client:
        yield client


def ask(sdk: Any, **fields: Any) -> Any:
    asked = {"model": "tiny-text", "query": QUERY, "documents": DOCUMENTS, **fields}
    return sdk.rerank(**asked)


def test_the_sdk_gets_our_order_with_scores_from_0_to_1(sdk: Any, text_client: TestClient) -> None:
    ours = text_client.post(
        "/v1/rerank", json={"model": "tiny-text", "query": QUERY, "documents": DOCUMENTS}
    ).json()["results"]
    found = ask(sdk).results
    assert [one.index for one in found] == [one["index"] for one in ours]
    assert [one.relevance_score for one in found] == pytest.approx(
        [(1 + one["relevance_score"]) / 2 for one in ours]
    )
    assert all(0 <= one.relevance_score <= 1 for one in found)


def test_the_best_of_a_text_and_its_opposite_stay_within_0_and_1(sdk: Any) -> None:
    found = ask(sdk, documents=[QUERY] * 3).results
    assert [one.relevance_score for one in found] == pytest.approx([1.0] * 3)
    assert max(one.relevance_score for one in found) <= 1


def test_the_answer_says_what_it_took(sdk: Any) -> None:
    answer = ask(sdk, top_n=2)
    assert len(answer.results) == 2
    assert answer.id
    assert answer.meta.api_version.version == "2"
    assert answer.meta.billed_units.search_units == 1
    assert answer.meta.tokens.input_tokens == answer.receipt["num_tokens"]


def test_long_documents_are_cut_as_cohere_cuts_them(sdk: Any) -> None:
    whole = ask(sdk, documents=[LONG])
    assert whole.meta.tokens.input_tokens == 5 + 32  # the model's own limit
    cut = ask(sdk, documents=[LONG], max_tokens_per_doc=10)
    assert cut.meta.tokens.input_tokens == 5 + 10


def test_a_budget_and_a_cascade_come_along(sdk: Any) -> None:
    flops = ask(sdk).receipt["flops"]
    extra = {"budget": {"flops": flops / 2}, "priority": 3}
    options = {"additional_body_parameters": extra}
    assert ask(sdk, request_options=options).receipt["flops"] <= flops / 2
    cascade = {"additional_body_parameters": {"cascade": {"depth": 1, "keep": 2}}}
    assert len(ask(sdk, request_options=cascade).receipt["deepened"]) == 2


@pytest.mark.parametrize("priority", [0, 7, 999])
def test_a_priority_is_taken(sdk: Any, priority: int) -> None:
    assert ask(sdk, priority=priority).results


def test_the_asynchronous_sdk_gets_the_same(sdk: Any, text_url: str) -> None:
    async def asked() -> Any:
        async with cohere.AsyncClientV2(api_key="none", base_url=text_url) as client:
            return await ask(client)

    found = asyncio.run(asked()).results
    assert [one.index for one in found] == [one.index for one in ask(sdk).results]


def test_the_first_version_of_the_sdk_reads_documents(text_url: str) -> None:
    with cohere.Client(api_key="none", base_url=text_url) as client:
        answer = client.rerank(
            model="tiny-text", query=QUERY, documents=DOCUMENTS, return_documents=True, top_n=2
        )
    assert [one.document.text for one in answer.results] == [
        DOCUMENTS[one.index] for one in answer.results
    ]


def test_the_first_version_of_the_sdk_ranks_the_fields_it_names(text_url: str) -> None:
    documents = [
        {"title": "w9", "text": "w3 w4", "id": "a"},
        {"title": "w1", "text": "w2", "id": "b"},
        {"title": "w40 w41", "text": "w9", "id": "c"},
    ]
    with cohere.Client(api_key="none", base_url=text_url) as client:
        ask_for = partial(client.rerank, model="tiny-text", query="w1 w2")
        fields: list[str] | None
        for fields in (["title", "text"], ["text"], None):
            names = fields or ["text"]
            plain = ["\n".join(one[name] for name in names) for one in documents]
            wanted = ask_for(documents=plain).results
            found = ask_for(
                documents=documents, rank_fields=fields, max_chunks_per_doc=3, return_documents=True
            ).results
            assert [one.index for one in found] == [one.index for one in wanted]
            assert [one.relevance_score for one in found] == pytest.approx(
                [one.relevance_score for one in wanted], abs=1e-6
            )
            assert [one.document.model_dump() for one in found] == [
                documents[one.index] for one in found
            ]
        cut = ask_for(documents=[LONG], max_chunks_per_doc=1)
        assert len(cut.results) == 1
        with pytest.raises(cohere.UnprocessableEntityError, match="at most 32"):
            ask_for(documents=[LONG])


def test_documents_come_back_where_they_are_asked_for(text_client: TestClient) -> None:
    """LiteLLM asks for them at this path too, and Cohere's first version at the other."""
    given: list[Any] = ["w1", {"text": "w2", "page": 7, "tags": ["x", None], "none": None}]
    for path in ("/v1/rerank", "/v2/rerank"):
        body = {"query": "w2", "documents": given, "return_documents": True}
        results = text_client.post(path, json=body).json()["results"]
        wanted: list[Any] = [{"text": "w1"}, given[1]]
        assert [one["document"] for one in results] == [wanted[one["index"]] for one in results]
        plain = text_client.post(path, json={**body, "return_documents": False}).json()["results"]
        assert all(set(one) == {"index", "relevance_score"} for one in plain)


@pytest.mark.parametrize(
    ("fields", "documents", "message"),
    [
        (["title"], [{"text": "w1"}], "documents[0].title=None must be a text"),
        (["page"], ["w1", {"text": "w1", "page": 7}], "documents[1].page=7 must be a text"),
        ([], ["w1"], "rank_fields: List should have at least 1 item"),
        ([1], ["w1"], "rank_fields[0]=1 must be a valid string"),
        (None, [{"text": 5}], "must be a text, or an object whose"),
    ],
)
def test_fields_that_cannot_be_ranked_are_named(
    text_client: TestClient, fields: Any, documents: Any, message: str
) -> None:
    body = {"query": "w2", "documents": documents, "rank_fields": fields}
    answer = text_client.post("/v2/rerank", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["message"]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"query": ""}, "UnprocessableEntityError", "query: the text is empty"),
        ({"documents": []}, "UnprocessableEntityError", "at least 1"),
        ({"documents": ["w1"] * 7}, "UnprocessableEntityError", "at most 6"),
        ({"model": "nope"}, "NotFoundError", "'nope' is not served"),
        ({"model": "tiny"}, "UnprocessableEntityError", "takes images, not text"),
        ({"top_n": 0}, "UnprocessableEntityError", "top_n=0 must be greater than 0"),
        ({"priority": -1}, "UnprocessableEntityError", "priority=-1 must be"),
        ({"relevant_spans": {}}, "UnprocessableEntityError", "relevant_spans is not a field"),
        ({"max_tokens_per_doc": 1}, "UnprocessableEntityError", "leave no room"),
        (
            {"request_options": {"additional_body_parameters": {"top_k": 3}}},
            "UnprocessableEntityError",
            "top_k is not a field; allowed: model, ",
        ),
        (
            {"documents": [{"title": "w1"}]},
            "UnprocessableEntityError",
            r"documents[0].text=None must be a text, to be ranked",
        ),
        (
            {"request_options": {"additional_body_parameters": {"budget": {"flops": 1}}}},
            "UnprocessableEntityError",
            "the cheapest subnet needs",
        ),
    ],
)
def test_errors_have_coheres_form_and_status(
    sdk: Any, fields: dict[str, Any], error: str, message: str
) -> None:
    with pytest.raises(getattr(cohere, error)) as caught:
        ask(sdk, **fields)
    assert message in caught.value.body["message"]
    assert caught.value.body["id"] == caught.value.headers["x-request-id"]


def test_a_body_that_is_no_json_is_refused_in_coheres_form(text_client: TestClient) -> None:
    answer = text_client.post(
        "/v2/rerank", content="{", headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert set(answer.json()) >= {"id", "message"}


def test_the_sdk_comes_back_when_a_full_server_says(sdk: Any, refuse: Refuse) -> None:
    refuse(2)
    assert ask(sdk).results
    refuse(3)
    with pytest.raises(cohere.TooManyRequestsError, match="full"):
        ask(sdk)

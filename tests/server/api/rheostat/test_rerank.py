from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor

from models.core import plan_cost
from models.families.exits import Exits
from search.lexical import lexical_scores
from server.app import create_app
from server.settings import Settings
from tests.search.offline.test_static_exit import write_pruned
from tests.tiny_text import embed

QUERY = "w1 w3 w5"
DOCUMENTS = ["w1 w2", "w3", "w4 w5 w6 w7", "w8 w1 w9", "w10 w11 w12"]
TEXTS = [QUERY, *DOCUMENTS]


@pytest.fixture(scope="module")
def spaced_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a server whose model has cuts of one space."""
    folder = tmp_path_factory.mktemp("spaced")
    write_pruned(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda _: None)  # for other tests
        with TestClient(create_app(Settings(models=folder, policy="fixed"))) as client:
            yield client


def cosines(model: Exits, depth: int) -> list[float]:
    """Of the dimensions that the table scores best; nobody sees the vectors here."""
    vectors = torch.cat([embed(model, [row], depth, 8) for row in rows(model)])
    return (vectors[1:] @ vectors[0]).tolist()


def rows(model: Exits) -> list[Tensor]:
    return [model.text.encode(text) for text in TEXTS]


def ask(client: TestClient, **fields: Any) -> dict[str, Any]:
    body = {"model": "tiny-text", "query": QUERY, "documents": DOCUMENTS, **fields}
    answer = client.post("/v1/rerank", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_similarity_is_the_cosine_in_the_order_given(
    text_client: TestClient, text_model: Exits
) -> None:
    body = {"model": "tiny-text", "source": QUERY, "texts": DOCUMENTS}
    answer = text_client.post("/v1/similarity", json=body).json()
    assert answer["scores"] == pytest.approx(cosines(text_model, 4), abs=1e-5)
    assert answer["receipt"]["num_tokens"] == sum(map(len, rows(text_model)))


def test_documents_come_best_first(text_client: TestClient, text_model: Exits) -> None:
    scores = cosines(text_model, 4)
    order = sorted(range(5), key=lambda i: -scores[i])
    found = ask(text_client, top_n=3, return_documents=True)["results"]
    assert [one["index"] for one in found] == order[:3]
    assert [one["document"] for one in found] == [{"text": DOCUMENTS[i]} for i in order[:3]]
    expected = [scores[i] for i in order[:3]]
    assert [one["relevance_score"] for one in found] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("keep", [1, 3, 9])
def test_a_cascade_deepens_the_best_and_equals_the_deep_run_for_them(
    text_client: TestClient, text_model: Exits, keep: int
) -> None:
    shallow, deep = cosines(text_model, 1), cosines(text_model, 4)
    best = sorted(range(5), key=lambda i: -shallow[i])[:keep]
    answer = ask(text_client, cascade={"depth": 1, "keep": keep})
    assert sorted(answer["receipt"]["deepened"]) == sorted(best)
    ranked = [one["index"] for one in answer["results"]]
    assert ranked[: len(best)] == sorted(best, key=lambda i: -deep[i])
    scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
    for i in range(5):
        assert scores[i] == pytest.approx((deep if i in best else shallow)[i], abs=1e-5)


def test_a_cascade_pays_each_layer_once(text_client: TestClient, text_model: Exits) -> None:
    """Going deeper costs the deep plan less the shallow one, and that is what runs."""
    lengths = [len(row) for row in rows(text_model)]
    answer = ask(text_client, cascade={"depth": 2, "keep": 2})
    space = text_model.space

    def macs(depth: int, length: int) -> int:
        subnet = space.check({**space.largest, "depth": depth})
        return plan_cost(text_model.plan(subnet, {"text": (length,)})).macs

    deepened = [0, *(i + 1 for i in answer["receipt"]["deepened"])]
    expected = sum(macs(2, n) for n in lengths)
    expected += sum(macs(4, lengths[i]) - macs(2, lengths[i]) for i in deepened)
    assert answer["receipt"]["total_flops"] == 2 * expected
    whole = sum(macs(4, n) for n in lengths)
    assert expected < whole == ask(text_client)["receipt"]["total_flops"] / 2


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"cascade": {"depth": 3, "keep": 1}}, "cascade.depth", "one of [1, 2]"),
        ({"cascade": {"depth": 4, "keep": 1}}, "cascade.depth", "before the chosen one"),
        ({"cascade": {"depth": 1, "keep": 0}}, "cascade.keep", "greater than 0"),
        ({"documents": []}, "documents", "at least 1"),
        ({"documents": [{"image": "x"}]}, "documents[0].text", "must be a text, to be"),
        ({"texts": ["w1"]}, "documents", "both given; use one"),
        ({"documents": ["w1"], "colour": 1}, "colour", "not a field"),
        ({"max_tokens_per_doc": 2}, "documents[0]", "leave no room"),
        ({"priority": 1000}, "priority", "less than or equal to 999"),
        ({"documents": ["w1"] * 7}, "documents", "at most 6"),
        ({"documents": ["w1", ""]}, "documents[1]", "the text is empty"),
        ({"query": ""}, "query", "the text is empty"),
        ({"query": " ".join(["w1"] * 40)}, "query", "at most 32"),
        ({"query_prompt": "poem"}, "query", "'poem' is not known"),
        ({"model": "tiny"}, "query", "takes images, not text"),
        ({"budget": {"flops": 1}}, "budget.flops", "too small"),
    ],
)
def test_what_is_wrong_is_named(
    text_client: TestClient, fields: dict[str, Any], field: str, message: str
) -> None:
    body = {"model": "tiny-text", "query": QUERY, "documents": DOCUMENTS, **fields}
    answer = text_client.post("/v1/rerank", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_jinas_form_is_read_and_answered(text_client: TestClient, path: str) -> None:
    body = {
        "model": "tiny-text",
        "query": QUERY,
        "documents": [{"text": DOCUMENTS[0]}, *DOCUMENTS[1:]],
        "top_n": 2,
        "return_documents": True,
    }
    answer = text_client.post(path, json=body)
    found = answer.json()
    plain = ask(text_client, top_n=2)["results"]
    assert [(one["index"], one["relevance_score"]) for one in found["results"]] == [
        (one["index"], one["relevance_score"]) for one in plain
    ]
    assert [one["document"] for one in found["results"]] == [
        {"text": DOCUMENTS[one["index"]]} for one in plain
    ]
    assert all(set(one) == {"index", "relevance_score"} for one in plain)
    assert found["usage"]["total_tokens"] == found["receipt"]["num_tokens"]
    assert (found["model"], found["id"]) == ("tiny-text", answer.headers["x-request-id"])


def test_documents_are_cut_to_the_tokens_asked_for(
    text_client: TestClient, text_model: Exits
) -> None:
    cut = ask(text_client, documents=["w4 w5 w6 w7", "w8"], max_tokens_per_doc=4)
    same = ask(text_client, documents=["w4 w5", "w8"])
    assert cut["usage"] == same["usage"]
    assert cut["results"] == same["results"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_errors_of_documents_have_our_own_form(text_client: TestClient, path: str) -> None:
    answer = text_client.post(path, json={"query": "w1", "documents": [""]})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "documents[0]"


def test_a_query_with_a_budget_of_its_own_has_a_subnet_of_its_own(
    spaced_client: TestClient,
) -> None:
    body: dict[str, Any] = {"query": "w1 w2", "documents": ["w3 w4", "w1", "w9 w8 w7"]}

    def ask(**budgets: Any) -> dict[str, Any]:
        answer = spaced_client.post("/v1/rerank", json={**body, **budgets})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def vectors(texts: Sequence[str], fraction: float) -> torch.Tensor:
        asked = {"input": list(texts), "budget": {"fraction": fraction}}
        answer = spaced_client.post("/v1/embeddings", json=asked).json()
        return torch.tensor([one["embedding"] for one in answer["data"]])

    whole, cut = ask(), ask(query_budget={"fraction": 0.5})
    assert whole["receipt"]["query"] is None
    assert cut["receipt"]["fraction"] == whole["receipt"]["fraction"] == 1.0
    assert cut["receipt"]["query"]["fraction"] <= 0.5
    assert cut["receipt"]["query"]["space"] == cut["receipt"]["space"]
    assert cut["receipt"]["total_flops"] < whole["receipt"]["total_flops"]
    expected = vectors(body["documents"], 1.0) @ vectors([body["query"]], 0.5)[0]
    found = {one["index"]: one["relevance_score"] for one in cut["results"]}
    torch.testing.assert_close(
        torch.tensor([found[i] for i in range(3)]), expected, atol=1e-5, rtol=0
    )
    both = ask(budget={"fraction": 0.5}, query_budget={"fraction": 1.0})
    assert both["receipt"]["fraction"] <= 0.5
    assert both["receipt"]["query"]["fraction"] == 1.0


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"query_budget": {"latency_ms": 5}}, "query_budget.latency_ms"),
        ({"query_budget": {"fraction": 2}}, "query_budget.fraction"),
        ({"query_budget": {"fraction": 0.5}, "cascade": {"depth": 1, "keep": 1}}, "query_budget"),
    ],
)
def test_a_budget_of_the_query_that_makes_no_sense_is_refused_by_name(
    spaced_client: TestClient, more: dict[str, Any], field: str
) -> None:
    body = {"query": "w1", "documents": ["w2", "w3"], **more}
    answer = spaced_client.post("/v1/rerank", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


def test_where_no_subnets_share_a_space_the_query_cannot_be_cut(text_client: TestClient) -> None:
    body = {
        "query": "w1",
        "documents": ["w2", "w3"],
        "model": "tiny-text",
        "query_budget": {"fraction": 0.3},
    }
    answer = text_client.post("/v1/rerank", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "infeasible_budget"


def test_words_of_the_query_count_as_much_as_is_asked(
    text_client: TestClient, text_model: Exits
) -> None:
    """Beside the cosine, in standard deviations of the list; in stages as well."""
    own, ids = np.array(cosines(text_model, 4)), [one.numpy() for one in rows(text_model)]
    expected = own + 0.5 * own.std() * lexical_scores(ids[0], ids[1:])
    for fields in ({}, {"in_stages": True}):
        found = ask(text_client, lexical_weight=0.5, **fields)["results"]
        scores = {one["index"]: one["relevance_score"] for one in found}
        assert [scores[i] for i in range(5)] == pytest.approx(expected.tolist(), abs=1e-4)
        assert [one["index"] for one in found] == np.argsort(-expected).tolist()


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"lexical_weight": -0.1}, "lexical_weight"),
        ({"lexical_weight": 11}, "lexical_weight"),
        ({"lexical_weight": 0.5, "cascade": {"depth": 1, "keep": 1}}, "lexical_weight"),
    ],
)
def test_a_weight_of_words_that_cannot_be_is_refused(
    text_client: TestClient, fields: dict[str, Any], where: str
) -> None:
    body = {"model": "tiny-text", "query": QUERY, "documents": DOCUMENTS, **fields}
    answer = text_client.post("/v1/rerank", json=body)
    assert answer.status_code == 422
    assert where in answer.text

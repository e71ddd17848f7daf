"""The protocol of Text Embeddings Inference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from models.families.exits import Exits
from models.nn.ragged import Ragged
from server.api.tei import form as tei_form
from server.app import create_app
from server.errors import (
    AuthenticationError,
    DatabaseError,
    DeadlineError,
    InferenceError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    RheostatError,
)
from server.settings import Settings
from tests.tiny_text import embed

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8"]
LONG = " ".join(f"w{i}" for i in range(40))
RANK: dict[str, Any] = {"query": "w1 w2", "texts": TEXTS}
TIMES = (
    "x-compute-time",
    "x-total-time",
    "x-tokenization-time",
    "x-queue-time",
    "x-inference-time",
)


def expected(model: Exits, texts: list[str], dim: int = 16) -> torch.Tensor:
    rows = [model.text.encode(text, truncate="right") for text in texts]
    return torch.cat([embed(model, [row], 4, dim) for row in rows])


def post(client: TestClient, path: str, status: int = 200, /, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_texts_become_a_list_of_unit_vectors(
    text_client: TestClient, text_model: Exits, path: str
) -> None:
    found = torch.tensor(post(text_client, path, inputs=TEXTS))
    torch.testing.assert_close(found, expected(text_model, TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("inputs", ["w4", [2, 8, 3], [[2, 8, 3]]])
def test_one_text_or_its_ids_make_a_list_of_one(
    text_client: TestClient, text_model: Exits, inputs: Any
) -> None:
    assert text_model.text.encode("w4").tolist() == [2, 8, 3]
    found = torch.tensor(post(text_client, "/embed", inputs=inputs))
    torch.testing.assert_close(found, expected(text_model, ["w4"]), atol=1e-5, rtol=0)


def test_times_and_counts_stand_in_the_headers(text_client: TestClient) -> None:
    answer = text_client.post("/embed", json={"inputs": TEXTS})
    assert all(int(answer.headers[name]) >= 0 for name in TIMES)
    parts = sum(int(answer.headers[name]) for name in TIMES[2:])
    assert parts <= int(answer.headers["x-total-time"])
    assert answer.headers["x-compute-characters"] == str(sum(map(len, TEXTS)))
    assert answer.headers["x-compute-tokens"] == str(3 + 1 + 4 + 2 * 3)
    assert answer.headers["x-compute-type"] == "torch-cpu"
    assert "depth=4" in answer.headers["x-rheostat-subnet"]


def test_long_text_is_cut_unless_the_client_says_not_to(
    text_client: TestClient, text_model: Exits
) -> None:
    assert text_client.get("/info").json()["auto_truncate"] is True
    words = LONG.split()
    right, left = " ".join(words[:30]), " ".join(words[-30:])
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, right),
        ({"truncate": None}, right),
        ({"truncation_direction": "Right"}, right),
        ({"truncation_direction": "Left"}, left),
        ({"truncation_direction": "left", "truncate": True}, left),
    ]
    for fields, text in cases:
        found = torch.tensor(post(text_client, "/embed", inputs=LONG, **fields))
        torch.testing.assert_close(found, expected(text_model, [text]), atol=1e-5, rtol=0)
    refused = post(text_client, "/embed", 422, inputs=LONG, truncate=False)
    assert refused["error_type"] == "Validation"
    assert "has 42 tokens; at most 32" in refused["error"]


def test_dimensions_are_cut_first_and_then_normalised(
    text_client: TestClient, text_model: Exits
) -> None:
    found = torch.tensor(post(text_client, "/embed", inputs=TEXTS, dimensions=8))
    torch.testing.assert_close(found, expected(text_model, TEXTS, 8), atol=1e-5, rtol=0)


def pooled(model: Exits, text: str, dim: int) -> torch.Tensor:
    """Return a text's vector as it is before it becomes a unit vector."""
    subnet = model.space.check({"depth": 4, "heads": 1, "ffn": 1, "dim": dim})
    value: Any = Ragged.pack([model.text.encode(text)])
    for step in model.plan(subnet, {"text": (8,)}).steps[:-1]:
        value = step.run(value)
    return model.pool(4, dim, value)[0]


@pytest.mark.parametrize("dim", [8, 16])
def test_vectors_that_are_not_normalised_are_as_pooled(
    text_client: TestClient, text_model: Exits, dim: int
) -> None:
    body: dict[str, Any] = {"inputs": TEXTS, "dimensions": dim, "normalize": False}
    found = torch.tensor(post(text_client, "/embed", **body))
    wanted = torch.stack([pooled(text_model, text, dim) for text in TEXTS])
    assert (wanted.norm(dim=1) - 1).abs().min() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    units = torch.tensor(post(text_client, "/embed", **{**body, "normalize": None}))
    torch.testing.assert_close(units, expected(text_model, TEXTS, dim), atol=1e-5, rtol=0)


def test_the_cache_tells_vectors_as_pooled_from_unit_vectors(
    text_settings: Settings, text_model: Exits
) -> None:
    settings = text_settings.model_copy(update={"max_cache_bytes": 10**6, "policy": "price"})
    with TestClient(create_app(settings)) as client:
        for _ in range(2):  # the second time from the cache
            for normalize, wanted in (
                (True, expected(text_model, ["w4"])[0]),
                (False, pooled(text_model, "w4", 16)),
            ):
                (found,) = post(client, "/embed", inputs="w4", normalize=normalize)
                torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-4, rtol=1e-4)
        assert "rheostat_cache_hits_total 2.0" in client.get("/metrics").text


def test_a_prompt_stands_around_the_text(text_client: TestClient, text_model: Exits) -> None:
    found = torch.tensor(post(text_client, "/embed", inputs="w7", prompt_name="query"))
    torch.testing.assert_close(found, expected(text_model, ["w0 w1 w7"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("where", ["body", "headers"])
def test_a_budget_slims_the_answer(text_client: TestClient, where: str) -> None:
    whole = text_client.post("/embed", json={"inputs": TEXTS[0]})
    limit = float(whole.headers["x-rheostat-flops"]) / 2
    body: dict[str, Any] = {"inputs": TEXTS[0]}
    headers = {"x-rheostat-flops": str(limit)} if where == "headers" else {}
    if where == "body":
        body["budget"] = {"flops": limit}
    answer = text_client.post("/embed", json=body, headers=headers)
    assert 0 < float(answer.headers["x-rheostat-flops"]) <= limit


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_texts_are_ranked_in_a_bare_list(text_client: TestClient, path: str) -> None:
    cosines = [one["score"] for one in post(text_client, path, **RANK, raw_scores=True)]
    assert cosines == sorted(cosines, reverse=True)
    assert all(set(one) == {"index", "score"} for one in post(text_client, path, **RANK))
    found = post(text_client, path, **RANK, return_text=True)
    assert [one["score"] for one in found] == pytest.approx([(1 + c) / 2 for c in cosines])
    assert [one["text"] for one in found] == [TEXTS[one["index"]] for one in found]
    inputs = {"source_sentence": RANK["query"], "sentences": TEXTS}
    by_index = post(text_client, "/similarity", inputs=inputs)
    plain = post(text_client, path, **RANK, raw_scores=True)
    assert [by_index[one["index"]] for one in plain] == pytest.approx(cosines, abs=1e-6)


def test_fields_that_are_not_known_are_ignored_as_by_tei(text_client: TestClient) -> None:
    litellm: dict[str, Any] = {
        "raw_scores": False,
        "truncate": False,
        "truncation_direction": "Right",
        "top_n": 1,
    }
    assert len(post(text_client, "/rerank", **RANK, **litellm)) == 3
    assert post(text_client, "/embed", inputs="w1", colour="red")


def test_similarity_takes_parameters(text_client: TestClient) -> None:
    inputs = {"source_sentence": "w1", "sentences": [LONG]}
    parameters = {"truncate": False}
    refused = post(text_client, "/similarity", 422, inputs=inputs, parameters=parameters)
    assert refused["field"] == "inputs.sentences[0]"
    assert len(post(text_client, "/similarity", inputs=inputs)) == 1


def test_tokens_know_where_they_stand_and_become_text_again(text_client: TestClient) -> None:
    (first, second) = post(text_client, "/tokenize", inputs=["w1  w2", "w3"])
    assert first == [
        {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None},
        {"id": 5, "text": "w1", "special": False, "start": 0, "stop": 2},
        {"id": 6, "text": "w2", "special": False, "start": 4, "stop": 6},
        {"id": 3, "text": "[SEP]", "special": True, "start": None, "stop": None},
    ]
    bare = post(text_client, "/tokenize", inputs="w3", add_special_tokens=False)
    assert bare == [[second[1]]]
    ids = [[token["id"] for token in text] for text in (first, second)]
    assert post(text_client, "/decode", ids=ids) == ["w1 w2", "w3"]
    assert post(text_client, "/decode", ids=ids[1]) == ["w3"]
    assert post(text_client, "/decode", ids=ids[1], skip_special_tokens=False) == ["[CLS] w3 [SEP]"]


def test_tokens_of_a_prompt_are_those_of_its_template(text_client: TestClient) -> None:
    (found,) = post(text_client, "/tokenize", inputs="w7", prompt_name="query")
    assert [token["text"] for token in found] == ["[CLS]", "w0", "w1", "w7", "[SEP]"]


def test_info_tells_the_model_and_the_limits(
    text_client: TestClient, text_settings: Settings
) -> None:
    found = text_client.get("/info").json()
    assert found["model_id"] == "tiny-text"
    assert found["model_type"] == {"embedding": {"pooling": "mean"}}
    assert found["max_input_length"] == 32
    assert found["max_client_batch_size"] == text_settings.max_texts
    assert found["max_batch_tokens"] == text_settings.max_batch_tokens
    assert found["matryoshka_dimensions"] == [4, 8, 16]
    assert len(found["model_sha"]) == 64


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_health_is_empty(text_client: TestClient, path: str) -> None:
    answer = text_client.get(path)
    assert (answer.status_code, answer.content) == (200, b"")


BAD: list[tuple[str, dict[str, Any], int, str, str | None, str]] = [
    ("/embed", {"inputs": []}, 400, "Empty", "inputs", "inputs is empty"),
    ("/tokenize", {"inputs": []}, 400, "Empty", "inputs", "inputs is empty"),
    ("/decode", {"ids": []}, 400, "Empty", "ids", "ids is empty"),
    ("/rerank", {"query": "w1", "texts": []}, 400, "Empty", "texts", "texts is empty"),
    ("/embed", {"inputs": ""}, 422, "Validation", "inputs", "the text is empty"),
    ("/embed", {"inputs": ["w1"] * 7}, 422, "Validation", "inputs", "at most 6"),
    ("/embed", {"inputs": 5}, 422, "Validation", "inputs", "must be a text"),
    ("/embed", {}, 422, "Validation", "inputs", "required"),
    ("/embed", {"inputs": "w1", "normalize": 0}, 422, "Validation", "normalize", "a valid boolean"),
    ("/embed", {"inputs": "w1", "dimensions": 0}, 422, "Validation", "dimensions", "than 0"),
    ("/embed", {"inputs": "w1", "dimensions": 99}, 422, "Validation", "dimensions", "[4, 8, 16]"),
    ("/embed", {"inputs": "w1", "prompt_name": "x"}, 422, "Validation", "inputs", "'x'"),
    (
        "/embed",
        {"inputs": "w1", "budget": {"flops": 1}},
        422,
        "Validation",
        "budget.flops",
        "too small",
    ),
    ("/embed", {"inputs": "w1", "budget": {"x": 1}}, 422, "Validation", "budget.x", "not a field"),
    ("/embed", {"inputs": "w1", "model": "tiny"}, 422, "Validation", "inputs", "images, not text"),
    ("/tokenize", {"inputs": "w1", "model": "tiny"}, 422, "Validation", "model", "not text"),
    ("/embed", {"inputs": "w1", "model": "nope"}, 404, "Validation", "model", "not served"),
    ("/rerank", {"query": "", "texts": ["w1"]}, 422, "Validation", "query", "is empty"),
    ("/rerank", {"query": "w1"}, 422, "Validation", "documents", "missing; one is required"),
    ("/decode", {"ids": [[2, 60]]}, 422, "Validation", "ids[0]", "not in 0..59"),
    ("/tokenize", {"inputs": ["w1", ""]}, 422, "Validation", "inputs[1]", "the text is empty"),
]


@pytest.mark.parametrize(("path", "body", "status", "kind", "field", "message"), BAD)
def test_errors_are_teis(
    text_client: TestClient,
    path: str,
    body: dict[str, Any],
    status: int,
    kind: str,
    field: str | None,
    message: str,
) -> None:
    found = post(text_client, path, status, **body)
    assert (found["error_type"], found["field"]) == (kind, field)
    assert message in found["error"]


def test_a_body_that_is_no_json_is_refused_in_teis_form(text_client: TestClient) -> None:
    for path in ("/embed", "/rerank", "/"):
        answer = text_client.post(path, content="{", headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequestError("x"), 422, "Validation"),
        (OverloadedError("x", 1.0), 429, "Overloaded"),
        (DeadlineError("x"), 504, "Overloaded"),
        (InferenceError("x"), 424, "Backend"),
        (ModelNotReadyError("x"), 503, "Unhealthy"),
        (DatabaseError("x"), 503, "Unhealthy"),
        (RheostatError("x"), 500, "Backend"),
    ],
)
def test_each_error_has_teis_status_and_type(error: RheostatError, status: int, kind: str) -> None:
    response = tei_form.form(error, "id-1")
    assert response.status_code == status
    assert f'"error_type":"{kind}"' in bytes(response.body).decode()


def test_a_missing_key_is_answered_without_a_body() -> None:
    response = tei_form.form(AuthenticationError("x"), "id-1")
    assert (response.status_code, response.body) == (401, b"")
    assert response.headers["www-authenticate"] == "Bearer"

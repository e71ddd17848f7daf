"""`POST /v1/embeddings` against a server that listens, through the client people use."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from torch import Tensor

from models.families.exits import Exits
from server import catalog
from server.settings import Settings
from tests.server.conftest import Refuse
from tests.tiny_text import embed

openai = pytest.importorskip("openai")

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11"]
NUM_TOKENS = 3 + 2 + 1 + 2 + 7 + 2  # each with [CLS] and [SEP]
LONG = " ".join(["w1"] * 40)


@pytest.fixture(scope="module")
def sdk(text_url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{text_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(model: Exits, texts: list[str], depth: int = 4, dim: int = 16) -> Tensor:
    """Embed each text alone."""
    rows = [model.text.encode(text) for text in texts]
    return torch.cat([embed(model, [row], depth, dim) for row in rows])


def vectors(answer: Any) -> Tensor:
    return torch.tensor([entry.embedding for entry in answer.data])


def test_the_sdk_gets_the_vectors_of_single_runs_in_order(sdk: Any, text_model: Exits) -> None:
    # The SDK asks for base64 unless told otherwise, and decodes it.
    answer = sdk.embeddings.create(model="tiny-text", input=TEXTS)
    torch.testing.assert_close(vectors(answer), expected(text_model, TEXTS), atol=1e-5, rtol=0)
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert answer.model == "tiny-text"
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (NUM_TOKENS, NUM_TOKENS)


def test_float_and_base64_carry_the_same_bits(sdk: Any, text_client: TestClient) -> None:
    request = {"model": "tiny-text", "input": TEXTS[0]}
    packed = text_client.post(
        "/v1/embeddings", json={**request, "encoding_format": "base64"}
    ).json()
    plain = sdk.embeddings.create(**request, encoding_format="float").data[0].embedding
    decoded = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_allclose(decoded, plain, atol=1e-7)


def test_no_vector_is_cut_unasked_even_where_a_shorter_one_scores_higher(
    sdk: Any, text_client: TestClient, text_settings: Settings
) -> None:
    assert catalog.load(text_settings.models_folder)["tiny-text"].finder.find().subnet["dim"] == 8
    assert len(sdk.embeddings.create(model="tiny-text", input="w1").data[0].embedding) == 16
    plan = text_client.post("/v1/plan", json={"model": "tiny-text"}).json()["receipt"]
    assert plan["subnet"]["dim"] == 16


def test_a_cut_vector_has_length_one(sdk: Any, text_model: Exits) -> None:
    answer = sdk.embeddings.create(model="tiny-text", input=TEXTS, dimensions=8)
    torch.testing.assert_close(
        vectors(answer), expected(text_model, TEXTS, dim=8), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(vectors(answer).norm(dim=1), torch.ones(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("ids", [[2, 9, 3], [[2, 9, 3], [2, 10, 11, 3]]])
def test_token_ids_run_as_they_are(sdk: Any, text_model: Exits, ids: list[Any]) -> None:
    rows = [torch.tensor(row) for row in (ids if isinstance(ids[0], list) else [ids])]
    answer = sdk.embeddings.create(model="tiny-text", input=ids)
    alone = torch.cat([embed(text_model, [row], 4, 16) for row in rows])
    torch.testing.assert_close(vectors(answer), alone, atol=1e-5, rtol=0)
    assert answer.usage.prompt_tokens == sum(map(len, rows))


@pytest.mark.parametrize("where", ["body", "headers"])
def test_a_budget_slims_the_answer_and_the_receipt_says_so(sdk: Any, where: str) -> None:
    whole = sdk.embeddings.create(model="tiny-text", input=TEXTS[2])
    limit = whole.receipt["flops"] / 2
    extra: dict[str, Any] = {"extra_body": {"budget": {"flops": limit}}}
    if where == "headers":
        extra = {"extra_headers": {"x-rheostat-flops": str(limit)}}
    raw = sdk.embeddings.with_raw_response.create(model="tiny-text", input=TEXTS[2], **extra)
    receipt = raw.parse().receipt
    assert receipt["flops"] <= limit
    assert raw.headers["x-rheostat-flops"] == str(receipt["flops"])
    subnet = " ".join(f"{axis}={value}" for axis, value in receipt["subnet"].items())
    assert raw.headers["x-rheostat-subnet"] == subnet
    assert receipt["subnet"]["dim"] == 16


def test_the_longest_text_decides_and_none_exceeds_the_budget(sdk: Any) -> None:
    whole = sdk.embeddings.create(model="tiny-text", input=TEXTS).receipt
    budget = {"budget": {"flops": whole["flops"] * 0.7}}
    mixed = sdk.embeddings.create(model="tiny-text", input=TEXTS, extra_body=budget).receipt
    longest = sdk.embeddings.create(model="tiny-text", input=TEXTS[2], extra_body=budget).receipt
    assert mixed["subnet"] == longest["subnet"]
    assert mixed["flops"] == longest["flops"] <= budget["budget"]["flops"]


def test_a_prompt_stands_around_the_text(sdk: Any, text_model: Exits) -> None:
    answer = sdk.embeddings.create(model="tiny-text", input="w7", extra_body={"prompt": "query"})
    alone = expected(text_model, ["w0 w1 w7"])
    torch.testing.assert_close(vectors(answer), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_text_is_cut_only_where_the_caller_says_so(sdk: Any, side: str) -> None:
    with pytest.raises(openai.BadRequestError, match="has 42 tokens; at most 32"):
        sdk.embeddings.create(model="tiny-text", input=LONG)
    cut = sdk.embeddings.create(model="tiny-text", input=LONG, extra_body={"truncate": side})
    assert cut.usage.prompt_tokens == 32


BAD: list[tuple[dict[str, Any], str | None, str]] = [
    ({"input": ""}, "input", "the text is empty"),
    ({"input": []}, "input", "at least one"),
    ({"input": ["w1", ""]}, "input[1]", "the text is empty"),
    ({"input": ["w1"] * 7}, "input", "at most 6"),
    ({"input": [1, 60]}, "input", "60"),
    ({"input": "w1", "encoding_format": "md5"}, "encoding_format", "'float' or 'base64'"),
    ({"input": "w1", "dimensions": 7}, "dimensions", r"one of \[4, 8, 16\]"),
    ({"input": "w1", "dimensions": -1}, "dimensions", "greater than or equal to 0"),
    ({"input": "w1", "budget": {"flops": 1}}, "budget.flops", "too small"),
    ({"input": "w1", "budget": {"min_quality": 1e12}}, "budget.min_quality", "the best subnet"),
    ({"input": "w1", "budget": {"joules": 1}}, "budget.joules", "not a field"),
    ({"input": "w1", "prompt": "poem"}, "input", "'poem' is not known"),
    ({}, "input", "Field required"),
    ({"input": 5}, "input", "input=5 must be a text, a list of token ids, or a list of texts"),
    ({"input": ["w1", 5]}, "input", "input=a list of 2 must be a text, a list of token ids"),
    ({"input": [[2, 3], []]}, "input[1]", "the list of token ids is empty"),
    ({"input": "w1", "priority": -1}, "priority", "greater than or equal to 0"),
    ({"input": "w1", "colour": "red"}, "colour", "not a field"),
    ({"input": "w1", "preferences": {"fish": 1}}, "preferences.fish", "similarity"),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD)
def test_what_is_wrong_is_said_in_the_form_the_sdk_reads(
    sdk: Any, body: dict[str, Any], param: str | None, message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        sdk.post("/embeddings", body={"model": "tiny-text", **body}, cast_to=object)
    error = caught.value
    assert error.param == param
    assert error.type == "invalid_request_error"
    assert isinstance(error.code, str)
    assert error.request_id
    assert {"message", "type", "param", "code"} <= set(error.body)


def test_unknown_models_and_models_without_text_are_told_apart(sdk: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="'nope' is not served") as caught:
        sdk.embeddings.create(model="nope", input="w1")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="takes images, not text"):
        sdk.embeddings.create(model="tiny", input="w1")


def test_a_model_of_one_width_refuses_dimensions_in_openais_words(sdk: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support specifying dimensions"):
        sdk.embeddings.create(model="tiny", input="w1", dimensions=8)


def test_a_header_that_is_no_limit_is_refused(sdk: Any) -> None:
    for header, message in (("x-rheostat-joules", "not known"), ("x-rheostat-flops", "number")):
        with pytest.raises(openai.BadRequestError, match=message):
            sdk.embeddings.create(model="tiny-text", input="w1", extra_headers={header: "much"})


def test_the_body_goes_before_the_header(sdk: Any) -> None:
    answer = sdk.embeddings.create(
        model="tiny-text",
        input="w1",
        extra_headers={"x-rheostat-fraction": "0.0001"},
        extra_body={"budget": {"fraction": 1.0}},
    )
    assert answer.receipt["fraction"] == 1


def test_models_are_listed_and_described_for_the_sdk(sdk: Any) -> None:
    listed = {model.id: model for model in sdk.models.list()}
    assert set(listed) == {"tiny", "tiny-text"}
    for name, model in listed.items():
        assert (model.object, model.owned_by) == ("model", "rheostat")
        assert isinstance(model.created, int)
        assert sdk.models.retrieve(name).id == name
    assert listed["tiny-text"].matryoshka_dimensions == [4, 8, 16]
    assert listed["tiny"].matryoshka_dimensions is None
    with pytest.raises(openai.NotFoundError, match="'nope' is not served") as caught:
        sdk.models.retrieve("nope")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_the_asynchronous_sdk_gets_the_same(sdk: Any, text_url: str) -> None:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{text_url}/v1", api_key="none") as client:
            listed = {model.id async for model in client.models.list()}
            assert listed == {"tiny", "tiny-text"}
            with pytest.raises(openai.BadRequestError, match="the text is empty"):
                await client.embeddings.create(model="tiny-text", input="")
            return await client.embeddings.create(model="tiny-text", input=TEXTS, dimensions=8)

    same = sdk.embeddings.create(model="tiny-text", input=TEXTS, dimensions=8)
    torch.testing.assert_close(vectors(asyncio.run(ask())), vectors(same), atol=1e-6, rtol=0)


def test_a_budget_that_cannot_be_met_is_not_tried_again_and_says_what_can(sdk: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.embeddings.create(model="tiny-text", input="w1", extra_body={"budget": {"flops": 1}})
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.code == "infeasible_budget"
    feasible = caught.value.body["feasible"]
    budget = {"budget": {"flops": feasible}}
    assert sdk.embeddings.create(model="tiny-text", input="w1", extra_body=budget).data


def test_the_read_timeout_that_the_sdk_sends_ends_what_waits_longer(
    sdk: Any, text_client: TestClient
) -> None:
    """The SDK says how long it will read; work that is past that is not run."""
    request = {"model": "tiny-text", "input": "w1"}
    header = "x-stainless-read-timeout"
    late = text_client.post("/v1/embeddings", json=request, headers={header: "1e-9"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert sdk.with_options(timeout=30).embeddings.create(**request).data
    bad = text_client.post("/v1/embeddings", json=request, headers={header: "soon"})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, header)


def test_a_model_may_be_left_out_where_one_takes_texts(sdk: Any, text_client: TestClient) -> None:
    answer = text_client.post("/v1/embeddings", json={"input": "w1"}).json()
    assert answer["model"] == "tiny-text"


def test_defects_of_other_servers_are_none_here(sdk: Any, text_client: TestClient) -> None:
    """Each was seen in infinity 0.0.78 or LitServe 0.2.19; see the assertions' comments."""
    cut = sdk.embeddings.create(model="tiny-text", input=["w1", "w2 w3"], dimensions=4)
    assert vectors(cut).shape == (2, 4)  # LitServe: a list is refused, dimensions are ignored
    torch.testing.assert_close(vectors(cut).norm(dim=1), torch.ones(2))  # infinity: 0.6
    assert cut.usage.prompt_tokens == 3 + 4  # infinity: characters; LitServe: 0
    assert sdk.embeddings.create(model="tiny-text", input=[2, 9, 3]).data  # infinity: 422
    with pytest.raises(openai.NotFoundError):  # infinity: 200
        sdk.embeddings.create(model="nope", input="w1")
    empty = text_client.post("/v1/embeddings", json={"model": "tiny-text", "input": []})
    assert empty.status_code == 400  # LitServe: 500 in plain text
    error = empty.json()["error"]  # infinity: FastAPI's detail, null type, a number for code
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert text_client.get("/metrics").status_code == 200  # LitServe: none


def test_both_paths_answer_alike(text_client: TestClient) -> None:
    request = {"model": "tiny-text", "input": "w1"}
    one, other = (
        text_client.post(path, json=request) for path in ("/v1/embeddings", "/embeddings")
    )
    assert one.json()["data"] == other.json()["data"]
    bad = text_client.post("/embeddings", json={"model": "tiny-text", "input": ""})
    assert (bad.status_code, bad.json()["error"]["type"]) == (400, "invalid_request_error")


def test_the_sdk_comes_back_when_a_full_server_says(text_url: str, refuse: Refuse) -> None:
    with openai.OpenAI(base_url=f"{text_url}/v1", api_key="none", max_retries=2) as patient:
        refuse(2)
        assert patient.embeddings.create(model="tiny-text", input="w1").data
        refuse(3)
        with pytest.raises(openai.RateLimitError, match="full") as caught:
            patient.embeddings.create(model="tiny-text", input="w1")
    assert (caught.value.type, caught.value.code) == ("rate_limit_error", "overloaded")
    assert caught.value.response.headers["retry-after-ms"] == "20"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"embedding_type": "base64"}, {"encoding_format": "base64"}),  # Jina's API
        ({"encoding_type": "float"}, {}),  # llama-index's Jina client
        ({"normalized": True}, {}),
        ({"normalized": False}, {"normalize": False}),
        ({"task": "query"}, {"prompt": "query"}),
        ({"late_chunking": False}, {}),
        ({"truncate": False}, {}),
        ({"dimensions": 0, "modality": "text"}, {}),  # infinity's client
        ({"user": "me", "add_special_tokens": True, "priority": 0}, {}),
    ],
)
def test_fields_of_other_clients_mean_what_they_mean_there(
    text_client: TestClient, given: dict[str, Any], meant: dict[str, Any]
) -> None:
    body = {"input": ["w1 w2", "w3"]}
    found = text_client.post("/v1/embeddings", json={**body, **given})
    wanted = text_client.post("/v1/embeddings", json={**body, **meant})
    assert found.status_code == wanted.status_code == 200, found.text
    assert found.json()["data"] == wanted.json()["data"]


@pytest.mark.parametrize(
    ("fields", "cut"),
    [
        ({"truncate": True}, ["w1"] * 30),
        ({"truncate_prompt_tokens": -1}, ["w1"] * 30),
        ({"truncate_prompt_tokens": 7}, ["w1"] * 5),
        ({"truncate_prompt_tokens": 7, "truncate": "left"}, ["w1"] * 4 + ["w2"]),
    ],
)
def test_long_texts_are_cut_as_other_servers_clients_ask(
    text_client: TestClient, fields: dict[str, Any], cut: list[str]
) -> None:
    found = text_client.post("/v1/embeddings", json={"input": f"{LONG} w2", **fields}).json()
    wanted = text_client.post("/v1/embeddings", json={"input": " ".join(cut)}).json()
    np.testing.assert_allclose(
        found["data"][0]["embedding"], wanted["data"][0]["embedding"], atol=1e-6
    )
    assert found["usage"]["prompt_tokens"] == len(cut) + 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"late_chunking": True}, "late_chunking=True must be False"),
        ({"modality": "image"}, "modality='image' must be 'text'"),
        ({"add_special_tokens": False}, "add_special_tokens=False must be True"),
        ({"embedding_type": "ubinary"}, "embedding_type='ubinary' must be 'float' or 'base64'"),
        ({"embedding_type": "float", "encoding_format": "base64"}, "embedding_type is not a field"),
        ({"task": "retrieval.query"}, "'retrieval.query'"),
        ({"truncate_prompt_tokens": 2}, "leave no room"),
        ({"truncate_prompt_tokens": 0}, "leave no room"),
        ({"truncate_prompt_tokens": -2}, "greater than or equal to -1"),
        ({"joules": None}, "joules is not a field"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    text_client: TestClient, fields: dict[str, Any], message: str
) -> None:
    answer = text_client.post("/v1/embeddings", json={"input": "w1", **fields})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]

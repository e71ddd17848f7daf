"""The Python client against a server that listens."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, assert_type

import httpx
import numpy as np
import pytest

from rheostat import (
    APIError,
    AsyncClient,
    Budget,
    Cascade,
    Client,
    Embeddings,
    InfeasibleBudgetError,
    InferAnswer,
    InvalidAnswerError,
    InvalidRequestError,
    ModelDetail,
    ModelEntry,
    OverloadedError,
    PlanReceipt,
    RerankAnswer,
    SimilarityAnswer,
    TaskOutput,
    UnknownModelError,
    Value,
)
from tests.server.conftest import Refuse
from tests.server.samples import image

TEXTS = ["w1 w2 w3", "w4"]


@pytest.fixture(scope="module")
def client(text_url: str) -> Iterator[Client]:
    with Client(text_url) as client:
        yield client


def test_an_image_is_answered_within_its_budget(client: Client) -> None:
    whole = client.infer(image())
    assert_type(whole, InferAnswer)
    limit = whole.receipt.flops / 2
    answer = client.infer(
        image(), tasks=["fish"], preferences={"fish": 1}, budget=Budget(flops=limit)
    )
    assert answer.receipt.flops <= limit
    assert set(answer.outputs[0]) == {"fish"}
    assert sum(answer.outputs[0]["fish"].probabilities.values()) == pytest.approx(1)


def test_several_images_are_one_request(client: Client) -> None:
    answer = client.infer([image(1), image(2)])
    first, second = (output["fish"].probabilities for output in answer.outputs)
    assert first == pytest.approx(client.infer(image(1)).outputs[0]["fish"].probabilities, abs=1e-5)
    assert second != pytest.approx(first, abs=1e-5)


def test_texts_become_rows_of_unit_vectors(client: Client) -> None:
    found = client.embed(TEXTS, dimensions=8)
    assert_type(found, Embeddings)
    vectors = np.array(found.vectors)
    assert vectors.shape == (2, 8)
    assert vectors.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = client.embed(TEXTS[0], dimensions=8).vectors
    np.testing.assert_allclose(alone, vectors[:1], atol=1e-6)
    assert found.usage.total_tokens == 5 + 3


def test_documents_are_ranked_and_compared(client: Client) -> None:
    answer = client.rerank("w1 w2", TEXTS, top_n=1, return_documents=True)
    assert_type(answer, RerankAnswer)
    (best,) = answer.results
    scores = client.similarity("w1 w2", TEXTS).scores
    assert best.relevance_score == pytest.approx(max(scores))
    assert best.document is not None
    assert best.document.text == TEXTS[best.index]
    assert client.rerank("w1", TEXTS, cascade=Cascade(depth=1, keep=1)).receipt.deepened


def test_documents_are_kept_ranked_and_forgotten(client: Client) -> None:
    made = client.create_index("kept", dict(zip("ab", TEXTS, strict=True)), model="tiny-text")
    assert (made.documents, client.indexes(), client.index("kept")) == (2, [made], made)
    found = client.neighbors("kept", "w1 w2", k=1, return_documents=True)
    (best,) = client.rerank_stored("w1 w2", ["a", "b"], index="kept", top_n=1).results
    assert (found.results[0].id, found.results[0].document) == ("ab"[best.index], TEXTS[best.index])
    client.delete_index("kept")
    assert client.indexes() == []


def test_texts_are_put_into_classes_that_are_sent_or_kept(client: Client) -> None:
    found = client.classify(["w1 w2"], TEXTS, top_k=1, model="tiny-text")
    client.create_index("kinds", dict(zip("ab", TEXTS, strict=True)), model="tiny-text")
    stored = client.classify_stored("w1 w2", index="kinds", budget=Budget(fraction=1.0))
    (best,) = found.data[0].labels
    first = stored.data[0].labels[0]
    assert (best.label, "ab"[best.index]) == (TEXTS[best.index], first.label)
    assert first.score == pytest.approx(best.score, abs=1e-5)
    assert stored.receipt.label_flops == 0
    client.delete_index("kinds")


def test_a_deadline_makes_stages(client: Client) -> None:
    receipt = client.rerank("w1", TEXTS, budget=Budget(latency_ms=60_000)).receipt
    assert receipt.stages is not None
    assert sum(run.flops for run in receipt.stages.runs) == receipt.total_flops


def test_vectors_are_sequences_of_the_floats_that_the_server_has(
    client: Client, text_url: str
) -> None:
    body = {"input": TEXTS, "encoding_format": "float"}
    sent = httpx.post(f"{text_url}/v1/embeddings", json=body).json()["data"]
    for vector, entry in zip(client.embed(TEXTS).vectors, sent, strict=True):
        assert list(vector) == pytest.approx(entry["embedding"], abs=1e-6)


def test_a_plan_says_what_would_run(client: Client) -> None:
    plan = client.plan(budget=Budget(fraction=0.5), tokens=20)
    assert plan.model == "tiny-text"
    assert plan.fraction <= 0.5
    assert client.plan(tasks=["fish"]).model == "tiny"


def test_models_are_listed_and_described(client: Client) -> None:
    listed = {entry.id: entry for entry in client.models()}
    assert listed["tiny-text"].matryoshka_dimensions == [4, 8, 16]
    assert client.model("tiny").cheapest.macs < client.model("tiny").largest.macs


def test_answers_have_types_of_their_own(client: Client) -> None:
    answer = client.infer(image())
    assert_type(answer.outputs, list[dict[str, TaskOutput]])
    assert_type(answer.receipt.subnet, dict[str, Value])
    assert_type(client.plan(tasks=["fish"]), PlanReceipt)
    assert_type(client.embed("w1").vectors, list[Sequence[float]])
    assert_type(client.similarity("w1", TEXTS), SimilarityAnswer)
    assert_type(client.models(), list[ModelEntry])
    assert_type(client.model("tiny"), ModelDetail)


def test_the_asynchronous_client_gets_the_same(client: Client, text_url: str) -> None:
    async def ask() -> tuple[Any, ...]:
        async with AsyncClient(text_url) as other:
            found = await other.embed(TEXTS)
            assert_type(found, Embeddings)
            with pytest.raises(UnknownModelError):
                await other.model("nope")
            return found.vectors, await other.infer(image()), await other.models()

    vectors, inferred, listed = asyncio.run(ask())
    np.testing.assert_allclose(vectors, client.embed(TEXTS).vectors, atol=1e-6)
    assert inferred.outputs[0]["fish"].label == client.infer(image()).outputs[0]["fish"].label
    assert listed == client.models()


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    names = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    assert names == {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose"}
    for name in names:
        one, other = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(one) == inspect.signature(other)
        assert one.__doc__ == other.__doc__
    assert next(iter(inspect.signature(Client("http://x").embed).parameters)) == "texts"


def fails(client: Client, kind: type[APIError], call: Callable[[Client], object]) -> APIError:
    with pytest.raises(kind) as caught:
        call(client)
    assert type(caught.value) is kind
    assert caught.value.request_id
    return caught.value


def test_a_budget_that_cannot_be_met_says_what_can(client: Client) -> None:
    calls: list[Callable[..., object]] = [
        lambda client, budget: client.infer(image(), budget=budget),
        lambda client, budget: client.embed(TEXTS, budget=budget),
        lambda client, budget: client.rerank("w1", TEXTS, budget=budget),
        lambda client, budget: client.plan(budget=budget, tokens=9),
    ]
    for call in calls:
        error = fails(client, InfeasibleBudgetError, partial(call, budget=Budget(flops=1)))
        assert (error.type, error.field) == ("infeasible_budget", "budget.flops")
        assert error.feasible is not None
        call(client, budget=Budget(flops=error.feasible))


def test_errors_are_typed_in_every_form(client: Client) -> None:
    error = fails(client, UnknownModelError, lambda one: one.embed("w1", model="nope"))
    assert (error.type, error.field, error.status) == ("unknown_model", "model", 404)
    assert fails(client, UnknownModelError, lambda one: one.model("no pe?")).status == 404
    error = fails(client, InvalidRequestError, lambda one: one.embed(""))
    assert (error.type, error.field) == ("invalid_request", "input")
    error = fails(client, InvalidRequestError, lambda one: one.rerank("w1", []))
    assert (error.type, error.field) == ("invalid_request", "documents")


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
def test_a_limit_that_makes_no_sense_is_refused_by_name(client: Client, limit: float) -> None:
    calls: list[Callable[[Client], object]] = [
        lambda one: one.infer(image(), budget=Budget(flops=limit)),
        lambda one: one.embed(TEXTS, budget=Budget(flops=limit)),
        lambda one: one.plan(budget=Budget(flops=limit), tokens=9),
    ]
    for call in calls:
        assert fails(client, InvalidRequestError, call).field == "budget.flops"


def test_no_image_is_an_error_that_names_it(client: Client) -> None:
    assert fails(client, InvalidRequestError, lambda one: one.infer([])).field == "image"


def test_a_full_server_is_asked_again_when_it_says(text_url: str, refuse: Refuse) -> None:
    waits: list[float] = []
    with Client(text_url, sleep=waits.append) as client:
        refuse(2)
        assert [len(vector) for vector in client.embed("w1").vectors] == [16]
        refuse(3)
        error = fails(client, OverloadedError, lambda one: one.rerank("w1", ["w2"]))
    assert waits == [0.02] * 4
    assert (error.type, error.retry_after_s) == ("overloaded", 0.02)


def test_an_answer_that_is_not_ours_is_an_error_all_the_same() -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(418, text="<html>teapot"))
    with Client("http://x", transport=page) as client, pytest.raises(APIError) as caught:
        client.models()
    assert (caught.value.status, caught.value.type) == (418, "unknown")
    assert "teapot" in caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>please log in", "Expecting value"),
        (b"[]", "the answer is [], not an object"),
        (b'{"data": [{"id": 7}]}', "not an object with 'object'"),
    ],
)
def test_a_success_that_is_not_ours_is_an_error_that_says_what_is_wrong(
    content: bytes, said: str
) -> None:
    page = httpx.MockTransport(
        lambda _: httpx.Response(200, content=content, headers={"x-request-id": "r7"})
    )
    with Client("http://x", transport=page) as client, pytest.raises(InvalidAnswerError) as caught:
        client.models()
    assert said in caught.value.message
    assert "GET /v1/models" in caught.value.message
    assert (caught.value.status, caught.value.request_id) == (200, "r7")


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1", "ftp://x", "http://", ""])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_address_that_is_none_of_http_is_refused_at_once(
    kind: type[Client | AsyncClient], url: str
) -> None:
    with pytest.raises(ValueError, match=r"url is '.*'; it must be like http://127.0.0.1:8000"):
        kind(url)


def test_a_server_below_a_prefix_is_reached() -> None:
    paths = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, json={"data": []})

    with Client("http://x/ai/", transport=httpx.MockTransport(answer)) as client:
        client.models()
    assert paths == ["/ai/v1/models"]

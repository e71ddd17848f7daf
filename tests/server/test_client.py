"""The Python client against a server that listens; retries against answers made up."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, assert_type

import httpx
import numpy as np
import pytest

from server.api.rheostat.schema import InferAnswer
from server.api.rheostat.text_schema import RerankAnswer
from server.client import (
    APIError,
    AsyncClient,
    AuthenticationError,
    Budget,
    Cascade,
    Client,
    DeadlineError,
    Embeddings,
    InfeasibleBudgetError,
    InvalidRequestError,
    OverloadedError,
    Retries,
    ServerError,
    UnknownModelError,
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
    assert found.vectors.shape == (2, 8)
    assert found.vectors.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    alone = client.embed(TEXTS[0], dimensions=8).vectors
    np.testing.assert_allclose(alone, found.vectors[:1], atol=1e-6)
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


def test_a_plan_says_what_would_run(client: Client) -> None:
    plan = client.plan(budget=Budget(fraction=0.5), tokens=20)
    assert plan.model == "tiny-text"
    assert plan.fraction <= 0.5
    assert client.plan(tasks=["fish"]).model == "tiny"


def test_models_are_listed_and_described(client: Client) -> None:
    listed = {entry.id: entry for entry in client.models()}
    assert listed["tiny-text"].matryoshka_dimensions == [4, 8, 16]
    assert client.model("tiny").cheapest.macs < client.model("tiny").largest.macs


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


def test_a_full_server_is_asked_again_when_it_says(text_url: str, refuse: Refuse) -> None:
    waits: list[float] = []
    with Client(text_url, sleep=waits.append) as client:
        refuse(2)
        assert client.embed("w1").vectors.shape == (1, 16)
        refuse(3)
        error = fails(client, OverloadedError, lambda one: one.rerank("w1", ["w2"]))
    assert waits == [0.02] * 4
    assert (error.type, error.retry_after_s) == ("overloaded", 0.02)


Answer = tuple[int, dict[str, str]]
FULL = {"error": {"type": "overloaded", "message": "full"}}


class Script:
    """A transport that gives its answers one after the other, and what the client waited."""

    def __init__(self, *answers: Answer | httpx.TransportError) -> None:
        self._answers = iter(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, httpx.TransportError):
            raise answer
        status, headers = answer
        body = {"object": "list", "data": []} if status == 200 else FULL
        return httpx.Response(status, headers=headers, json=body)

    def models(self, retries: Retries | None = None) -> list[Any]:
        transport = httpx.MockTransport(self)
        with Client(
            "http://x",
            "secret",
            retries=retries,
            transport=transport,
            sleep=self.waits.append,
            rng=lambda: 0.5,
        ) as client:
            return client.models()

    async def models_async(self) -> list[Any]:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        transport = httpx.MockTransport(self)
        async with AsyncClient(
            "http://x", transport=transport, sleep=sleep, rng=lambda: 0.5
        ) as client:
            return await client.models()


OK: Answer = (200, {})


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after-ms": "120", "retry-after": "7"}, 0.12),
        ({"retry-after": "7"}, 7.0),
        (
            {
                "retry-after": "Wed, 25 Nov 2026 10:00:09 GMT",
                "date": "Wed, 25 Nov 2026 10:00:00 GMT",
            },
            9.0,
        ),
        ({"retry-after": "later"}, 0.375),  # not intelligible: half a second less a quarter
        ({"retry-after": "Wed, 25 Nov 2026 10:00:09 GMT"}, 0.375),  # by no clock
        ({}, 0.375),
    ],
)
def test_the_wait_is_what_the_server_asks_for(headers: dict[str, str], wait_s: float) -> None:
    script = Script((429, headers), OK)
    assert script.models() == []
    assert script.waits == [pytest.approx(wait_s)]
    other = Script((429, headers), OK)
    assert asyncio.run(other.models_async()) == []
    assert other.waits == script.waits


def test_waits_that_nobody_names_double_up_to_a_limit() -> None:
    script = Script(*[(503, {})] * 6, OK)
    script.models(Retries(most=6, longest_s=2))
    assert script.waits == pytest.approx([0.375, 0.75, 1.5, 1.5, 1.5, 1.5])


def test_the_number_of_retries_is_bounded() -> None:
    script = Script(*[(429, {"retry-after": "1"})] * 9)
    with pytest.raises(OverloadedError, match="full") as caught:
        script.models()
    assert (len(script.requests), script.waits) == (3, [1, 1])
    assert caught.value.retry_after_s == 1
    once = Script((429, {}))
    with pytest.raises(OverloadedError):
        once.models(Retries(most=0))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((429, {"retry-after": "61"}), OverloadedError),  # longer than anybody wants to wait
        ((429, {"x-should-retry": "false"}), OverloadedError),
        ((500, {}), ServerError),
        ((504, {}), DeadlineError),
        ((401, {}), AuthenticationError),
        ((403, {}), AuthenticationError),
        ((422, {}), InvalidRequestError),
    ],
)
def test_what_would_fail_again_is_not_sent_again(answer: Answer, kind: type[APIError]) -> None:
    script = Script(answer)
    with pytest.raises(kind):
        script.models()
    assert not script.waits


def test_a_server_that_says_try_again_is_asked_again() -> None:
    script = Script((500, {"x-should-retry": "true"}), OK)
    assert script.models() == []


def test_a_lost_connection_is_tried_again_and_a_late_answer_is_not() -> None:
    lost: Sequence[httpx.TransportError] = [httpx.ConnectError("x"), httpx.ReadError("x")]
    assert Script(*lost, OK).models() == []
    with pytest.raises(httpx.ReadError):
        Script(*lost, httpx.ReadError("x")).models()
    late = Script(httpx.ReadTimeout("x"))
    with pytest.raises(httpx.ReadTimeout):
        late.models()


def test_the_key_is_sent_as_a_bearer_token() -> None:
    script = Script(OK)
    script.models()
    assert script.requests[0].headers["authorization"] == "Bearer secret"


def test_an_answer_that_is_not_ours_is_an_error_all_the_same() -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(418, text="<html>teapot"))
    with Client("http://x", transport=page) as client, pytest.raises(APIError) as caught:
        client.models()
    assert (caught.value.status, caught.value.type) == (418, "unknown")
    assert "teapot" in caught.value.message


def test_the_client_needs_neither_torch_nor_a_web_framework_nor_the_other_packages() -> None:
    program = (
        "import sys, server.client; "
        "heavy = {'torch', 'fastapi', 'uvicorn', 'prometheus_client', 'models', 'search'}; "
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

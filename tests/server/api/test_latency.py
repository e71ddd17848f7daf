"""Latency budgets, and what is said about load, through HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.settings import Settings

LONG_MS = 60_000.0


@pytest.fixture(scope="module")
def priced_client(text_settings: Settings) -> Iterator[TestClient]:
    """A client of an app that heeds latency budgets; policy ``fixed`` does not."""
    with TestClient(create_app(text_settings.model_copy(update={"policy": "price"}))) as client:
        yield client


def embed(client: TestClient, budget: dict[str, Any], **headers: str) -> dict[str, Any]:
    body = {"model": "tiny-text", "input": "w1 w2 w3", "budget": budget}
    answer = client.post("/v1/embeddings", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    receipt: dict[str, Any] = answer.json()["receipt"]
    return receipt


def plan(client: TestClient, **budget: Any) -> dict[str, Any]:
    body = {"model": "tiny-text", "tokens": 20, "budget": budget}
    answer: dict[str, Any] = client.post("/v1/plan", json=body).json()
    return answer


def test_a_latency_that_is_long_enough_changes_nothing_and_is_predicted(
    priced_client: TestClient,
) -> None:
    receipt = embed(priced_client, {"latency_ms": LONG_MS})
    assert receipt["quality"] == embed(priced_client, {})["quality"]
    assert receipt["predicted_run_ms"] > 0
    assert receipt["milliseconds"]["predicted"] >= receipt["predicted_run_ms"] * 0.5
    assert receipt["slimmed"] is False
    assert receipt["shared_flops"] == 0


def test_a_shorter_latency_never_gets_a_slower_or_better_subnet(priced_client: TestClient) -> None:
    whole = plan(priced_client)["receipt"]
    fastest_ms = plan(priced_client, latency_ms=1e-3)["error"]["feasible"]
    found = [
        plan(priced_client, latency_ms=fastest_ms + part * whole["predicted_run_ms"])["receipt"]
        for part in (0.0, 0.25, 0.5, 1.0, 2.0)
    ]
    qualities = [receipt["quality"] for receipt in found]
    assert qualities == sorted(qualities)
    assert qualities[-1] == whole["quality"]


def test_a_latency_that_nothing_meets_names_one_that_would_do(priced_client: TestClient) -> None:
    error = plan(priced_client, latency_ms=1e-3)["error"]
    assert error["type"] == "infeasible_budget"
    assert error["field"] == "budget.latency_ms"
    assert "is predicted to need" in error["message"]
    assert "receipt" in plan(priced_client, latency_ms=error["feasible"])


def test_latency_and_strictness_may_stand_in_headers(priced_client: TestClient) -> None:
    headers = {"x-rheostat-latency-ms": "0.001", "x-rheostat-strict": "true"}
    body = {"model": "tiny-text", "input": "w1"}
    answer = priced_client.post("/v1/embeddings", json=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "budget.latency_ms"
    embed(priced_client, {"latency_ms": LONG_MS, "strict": False}, **headers)  # the body goes first


@pytest.mark.parametrize(
    ("header", "value", "rule"),
    [
        ("x-rheostat-strict", "yes", "must be true or false"),
        ("x-rheostat-latency-ms", "-1", "must be a positive number"),
        ("x-rheostat-latency-ms", "soon", "must be a positive number"),
    ],
)
def test_headers_that_make_no_sense_are_named(
    priced_client: TestClient, header: str, value: str, rule: str
) -> None:
    body = {"model": "tiny-text", "input": "w1"}
    answer = priced_client.post("/v1/embeddings", json=body, headers={header: value})
    assert answer.status_code == 400
    assert f"{header}={value!r} {rule}" in answer.json()["error"]["message"]


def test_equal_texts_of_one_request_are_computed_once_and_the_receipt_says_so(
    priced_client: TestClient,
) -> None:
    body = {"model": "tiny-text", "input": ["w1 w2"] * 4}
    receipt = priced_client.post("/v1/embeddings", json=body).json()["receipt"]
    assert receipt["shared_flops"] == pytest.approx(0.75 * receipt["total_flops"])

"""What may stand in headers, on every route there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from search.budget import Budget
from server.api.options import LIMITS, NONE, READ_TIMEOUT, Options, read_options, runs_model
from server.api.rheostat.schema import BudgetBody
from server.app import create_app
from server.clients.caller import ANYONE
from server.errors import InvalidRequestError
from server.settings import Settings
from tests.server.samples import form, image, text_of
from tests.tiny_headed import CLASSIFIER

TEXT_MODEL, IMAGE_MODEL = "tiny-text", "tiny"
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1 w2"]}
RANK = {"query": "w1", "documents": ["w2", "w3"]}
RUNNING: Mapping[str, list[dict[str, Any]]] = {
    "/v1/infer": [
        {"json": {"image": text_of(image())}},
        {
            "content": form(
                ('name="image"; filename="a"', image()), ('name="request"', b'{"tasks": null}')
            ),
            "headers": {"content-type": "multipart/form-data; boundary=edge"},
        },
    ],
    "/v1/plan": [{"json": {"model": TEXT_MODEL, "tokens": 4}}, {"json": {"model": IMAGE_MODEL}}],
    "/v1/embeddings": [{"json": {"input": "w1"}}],
    "/embeddings": [{"json": {"input": "w1"}}],
    "/v1/classify": [{"json": {"input": "w1", "labels": ["w2", "w3"]}}],
    "/v1/similarity": [{"json": {"source": "w1", "texts": ["w2"]}}],
    "/v1/rerank": [{"json": RANK}, {"json": {"query": "w1", "texts": ["w2"]}}],
    "/v2/rerank": [{"json": RANK}, {"json": {"query": "w1", "texts": ["w2"]}}],
    "/rerank": [{"json": RANK}, {"json": {"query": "w1", "texts": ["w2"]}}],
    "/v1/neighbors": [{"json": {"index": "all", "query": "w1"}}],
    "/": [{"json": {"inputs": "w1"}}],
    "/embed": [{"json": {"inputs": "w1"}}],
    "/similarity": [{"json": {"inputs": {"source_sentence": "w1", "sentences": ["w2"]}}}],
    "/predict": [{"json": {"model": CLASSIFIER, "inputs": "w1"}}],
    "/v2/models/{model:path}/infer": [{"json": {"inputs": [TENSOR]}}],
    "/v2/models/{model:path}/versions/{version}/infer": [{"json": {"inputs": [TENSOR]}}],
}
CASES = [(path, i) for path, bodies in RUNNING.items() for i in range(len(bodies))]


@pytest.fixture(scope="module")
def text_client(all_settings: Settings) -> Iterator[TestClient]:
    """A client of an app with models for every path."""
    with TestClient(create_app(all_settings)) as client:
        documents = [{"id": "a", "text": "w1"}]
        body = {"name": "all", "model": TEXT_MODEL, "documents": documents}
        assert client.post("/v1/indexes", json=body).status_code == 201
        yield client


def routes(client: TestClient) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(cast(FastAPI, client.app).routes):
        for method in sorted(route.methods or ()):
            yield method, str(route.path)


def address(path: str) -> str:
    """Return a path with its parameters filled in."""
    for name, value in {"model": TEXT_MODEL, "version": "1"}.items():
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    return path.replace("{client}", "shop").replace("{key}", "0123")


def send(client: TestClient, path: str, i: int, headers: Mapping[str, str]) -> Any:
    given = RUNNING[path][i]
    both = {**given.get("headers", {}), **headers}
    return client.post(address(path), **{**given, "headers": both})


def test_the_table_of_paths_that_run_a_model_is_the_one_of_the_app(text_client: TestClient) -> None:
    found = {path for _, path in routes(text_client) if runs_model(address(path))}
    assert found == set(RUNNING)


def test_every_route_refuses_a_header_of_ours_that_is_not_known(text_client: TestClient) -> None:
    count = 0
    for method, path in routes(text_client):
        for header in ("x-rheostat-joules", "X-Rheostat-Flop", "x-rheostat", "x-rheostat_flops"):
            answer = text_client.request(method, address(path), headers={header: "1e12"})
            assert answer.status_code in (400, 422), (method, path, answer.text)
            if method != "HEAD":
                assert f"header {header.lower()!r} is not known" in answer.text, (method, path)
            count += 1
    assert count > 150


def test_every_route_that_runs_no_model_refuses_all_headers_of_ours(
    text_client: TestClient,
) -> None:
    refused = set()
    for method, path in routes(text_client):
        if path in RUNNING:
            continue
        for header, value in (("x-rheostat-flops", "1e12"), ("x-rheostat-priority", "1")):
            answer = text_client.request(method, address(path), headers={header: value})
            assert answer.status_code in (400, 422), (method, path, answer.text)
            if method != "HEAD":
                assert f"header {header}={value!r} cannot be used here" in answer.text
        refused.add(path)
    assert {"/tokenize", "/v1/models", "/v1/clients/{client}", "/v1/keys", "/healthz"} <= refused


@pytest.mark.parametrize(("path", "i"), CASES)
def test_a_budget_in_headers_holds_on_every_route_that_runs_a_model(
    text_client: TestClient, path: str, i: int
) -> None:
    assert send(text_client, path, i, {}).status_code == 200
    small = send(text_client, path, i, {"x-rheostat-fraction": "0.000001"})
    assert small.status_code in (400, 422)
    assert "budget.fraction=1e-06 is too small" in small.text
    part = "1" if path == "/v1/neighbors" else "0.5"  # this model has one depth in each space
    fits = {"x-rheostat-fraction": part, "x-rheostat-strict": "true", "x-rheostat-priority": "3"}
    assert send(text_client, path, i, fits).status_code == 200


@pytest.mark.parametrize(("path", "i"), CASES)
def test_every_route_that_runs_a_model_refuses_values_that_make_no_sense(
    text_client: TestClient, path: str, i: int
) -> None:
    cases = {
        "x-rheostat-flops": ("much", "-1", "0", "nan", "inf", "1e999", "1_000", "1, 2", "", "0x10"),
        "x-rheostat-fraction": ("1.5",),
        "x-rheostat-strict": ("yes", "True", "1"),
        "x-rheostat-priority": ("-1", "1.0", "1000", "low", "9999999999"),
        READ_TIMEOUT: ("soon", "0", "-3", "inf"),
    }
    for header, values in cases.items():
        for value in values:
            answer = send(text_client, path, i, {header: value})
            assert answer.status_code in (400, 422), (header, value, answer.text)
            assert f"header {header}={value!r} must be" in answer.text


@pytest.mark.parametrize(("path", "i"), CASES)
def test_a_header_that_is_given_twice_is_refused(
    text_client: TestClient, path: str, i: int
) -> None:
    given = RUNNING[path][i]
    for name, value in (("x-rheostat-flops", "1e12"), (READ_TIMEOUT, "30")):
        headers = [*given.get("headers", {}).items(), (name, value), (name.upper(), value)]
        answer = text_client.post(address(path), **{**given, "headers": headers})
        assert answer.status_code in (400, 422)
        assert f"header {name!r} is given more than once" in answer.text


@pytest.mark.parametrize(("path", "i"), [case for case in CASES if case[0] != "/v1/plan"])
def test_the_read_timeout_of_sdks_ends_what_waits_longer_on_every_route(
    text_client: TestClient, path: str, i: int
) -> None:
    assert send(text_client, path, i, {READ_TIMEOUT: "1e-9"}).status_code == 504
    assert send(text_client, path, i, {READ_TIMEOUT: "600"}).status_code == 200


def test_the_read_timeout_is_no_obstacle_where_no_model_runs(text_client: TestClient) -> None:
    assert text_client.get("/v1/models", headers={READ_TIMEOUT: "600"}).status_code == 200


def test_a_value_in_the_body_goes_before_the_same_one_in_a_header() -> None:
    options = read_options(
        [
            ("x-rheostat-flops", "10"),
            ("x-rheostat-strict", "true"),
            ("x-rheostat-priority", "7"),
            (READ_TIMEOUT, "30"),
            ("x-other", "1"),
        ],
        True,
    )
    alone = options.question(ANYONE, None)
    assert alone.budget == Budget(flops=10, strict=True)
    assert (alone.priority, alone.timeout_s) == (7, 30)
    body = BudgetBody.model_validate({"flops": 20, "macs": 3, "min_quality": None, "strict": False})
    both = options.question(ANYONE, body, priority=0, timeout_s=5)
    assert both.budget == Budget(flops=20, macs=3, strict=False)
    assert (both.priority, both.timeout_s) == (0, 5)


def test_every_limit_of_a_budget_has_its_header() -> None:
    assert set(LIMITS.values()) == set(BudgetBody.model_fields)
    assert "x-rheostat-min-quality" in LIMITS


def test_requests_without_such_headers_share_one_object() -> None:
    assert read_options([("accept", "*/*")], False) is NONE
    assert Options() == NONE
    with pytest.raises(InvalidRequestError, match="cannot be used here"):
        read_options([("x-rheostat-macs", "1")], False)


def test_a_side_and_preferences_ride_in_headers_of_any_protocol() -> None:
    headers = [("x-rheostat-side", "query"), ("x-rheostat-preferences", "retrieval=2, b:query=0.5")]
    question = read_options(headers, True).question(ANYONE, None)
    assert question.side == "query"
    assert question.preferences == {"retrieval": 2.0, "b:query": 0.5}
    own = read_options(headers, True).question(ANYONE, None, preferences={"a": 1}, side="document")
    assert (own.side, own.preferences) == ("document", {"a": 1})


@pytest.mark.parametrize(
    ("header", "value", "message"),
    [
        ("x-rheostat-side", "both", "must be one of"),
        ("x-rheostat-preferences", "a", "must be task=weight"),
        ("x-rheostat-preferences", "a=1,a=2", "each task once"),
        ("x-rheostat-preferences", "a=inf", "must be task=weight"),
        ("x-rheostat-preferences", ",".join(f"t{i}=1" for i in range(102)), "100 at most"),
    ],
)
def test_a_side_or_preference_that_makes_no_sense_is_refused_by_name(
    header: str, value: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read_options([(header, value)], True)

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fastapi import Request
from fastapi.responses import PlainTextResponse, Response
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from server.http.forms import Forms
from server.http.middleware import BodyLimit, RequestId
from tests.server.samples import Connection, run

LIMIT = 10


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body; fail before or after the start of the answer if the path says so."""
    request = Request(scope, receive)
    if request.url.path == "/fail":
        raise ZeroDivisionError("a secret")
    response: Response = PlainTextResponse(await request.body())
    await response(scope, receive, send)
    if request.url.path == "/fail-late":
        raise ZeroDivisionError


APP = RequestId(BodyLimit(echo, LIMIT), Forms({}))


@pytest.fixture(scope="module")
def echo_client() -> TestClient:
    return TestClient(APP)


def test_a_plain_id_of_the_client_comes_back(echo_client: TestClient) -> None:
    sent = "run-7_A.b:c"
    found = echo_client.post("/", headers={"X-Request-Id": sent}).headers["X-Request-Id"]
    assert found == sent


@pytest.mark.parametrize("sent", ["", "two words", "<b>", "x" * 129, "é".encode()])
def test_any_other_id_is_replaced(echo_client: TestClient, sent: str | bytes) -> None:
    headers = {b"x-request-id": sent if isinstance(sent, bytes) else sent.encode()}
    found = echo_client.post("/", headers=headers).headers["x-request-id"]
    assert len(found) == 32
    assert int(found, 16)


def test_ids_that_are_made_differ(echo_client: TestClient) -> None:
    ids = {echo_client.post("/").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


def test_an_error_nobody_answered_becomes_a_response_with_the_id(echo_client: TestClient) -> None:
    response = echo_client.post("/fail", headers={"x-request-id": "run-7"})
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "run-7"
    assert response.json()["error"]["request_id"] == "run-7"
    assert response.json()["error"]["type"] == "internal"
    assert "secret" not in response.text


def test_an_error_after_the_answer_has_begun_is_left_to_the_server() -> None:
    async def scenario() -> None:
        connection = Connection("/fail-late", {})
        connection.body(b"x")
        with pytest.raises(ZeroDivisionError):
            await connection.serve(APP)
        assert connection.status == 200

    run(scenario())


def chunks(*sizes: int) -> Iterator[bytes]:
    yield from (b"x" * size for size in sizes)


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_a_body_up_to_the_limit_passes(echo_client: TestClient, size: int) -> None:
    assert echo_client.post("/", content=b"x" * size).text == "x" * size
    assert echo_client.post("/", content=chunks(size)).text == "x" * size


def assert_too_large(status: int, body: bytes) -> None:
    assert status == 413
    error = json.loads(body)["error"]
    assert error["type"] == "payload_too_large"
    assert error["message"] == "the body exceeds 10 bytes (max_body_bytes)"


def test_a_body_above_the_limit_is_refused_with_and_without_a_length(
    echo_client: TestClient,
) -> None:
    declared = echo_client.post("/", content=b"x" * (LIMIT + 1))
    assert declared.request.headers["content-length"] == "11"
    assert_too_large(declared.status_code, declared.content)
    chunked = echo_client.post("/", content=chunks(6, 5))
    assert "content-length" not in chunked.request.headers
    assert_too_large(chunked.status_code, chunked.content)


@pytest.mark.parametrize("length", ["11", "0011", "100", "9" * 5000])
def test_a_length_above_the_limit_is_refused_before_anything_is_read(length: str) -> None:
    async def scenario() -> None:
        connection = Connection("/", {"content-length": length})
        await connection.serve(APP)
        assert_too_large(connection.status, connection.sent[1]["body"])
        assert connection.num_received == 0

    run(scenario())


@pytest.mark.parametrize("length", ["10", "00010", "0", ""])
def test_a_length_within_the_limit_does_not_excuse_a_longer_body(length: str) -> None:
    async def scenario() -> None:
        connection = Connection("/", {"content-length": length})
        connection.body(b"x" * 6, more=True)
        connection.body(b"x" * 5, more=True)
        connection.body(b"x" * 1_000_000)
        await connection.serve(APP)
        assert_too_large(connection.status, connection.sent[1]["body"])
        assert connection.num_received == 2  # the rest is left where it is

    run(scenario())


def test_other_connections_than_http_pass_untouched() -> None:
    async def scenario() -> None:
        seen: list[Scope] = []

        async def note(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)

        scope: Scope = {"type": "lifespan"}
        connection = Connection("/", {})
        await RequestId(BodyLimit(note, LIMIT), Forms({}))(
            scope, connection._receive, connection._send
        )
        assert seen == [scope]

    run(scenario())

"""Slow clients at a real server, byte by byte."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvicorn
from fastapi import Request
from fastapi.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from server.app import FORMS
from server.errors import PayloadTooLargeError
from server.http.forms import Forms
from server.http.middleware import BodyTimeout, RequestId
from server.http.serving import configured
from server.observe.arrival import arrived
from server.settings import Settings
from tests.server.bytewise import LONG_S, answered, connected, rest
from tests.server.listening import listening

LIMIT_S = 0.2
BUSY_S = 0.05
CLOSED = b""


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the body; as the path says, wait beyond the limit, leave it unread, say its age."""
    request = Request(scope, receive)
    if scope["path"] == "/unread":
        raise PayloadTooLargeError("no")
    response: Response = PlainTextResponse(await request.body())
    if scope["path"] == "/waited":
        waited_s = time.perf_counter() - arrived(math.inf)
        time.sleep(BUSY_S)  # as whatever the event loop does for a request
        response = PlainTextResponse(str(waited_s))
    if scope["path"] == "/late":
        with pytest.raises(TimeoutError):  # nobody leaves, and nobody is told to hurry
            await asyncio.wait_for(receive(), 2 * LIMIT_S)
    await response(scope, receive, send)


APP = RequestId(BodyTimeout(answer, LIMIT_S), Forms(FORMS))


def config(keep_alive_s: int = LONG_S) -> uvicorn.Config:
    found = configured(APP, Settings(read_timeout_s=LIMIT_S, keep_alive_s=keep_alive_s))
    found.port = 0
    found.lifespan = "off"
    return found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening(APP, config()) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[socket.socket]:
    with connected(address) as client:
        yield client


def head(length: int, path: str = "/own") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


def ask(client: socket.socket, body: bytes = b"abcd", path: str = "/own") -> bytes:
    """Send a request and return the body of the answer."""
    client.sendall(head(len(body), path) + body)
    return answered(client)


def drip(client: socket.socket, data: bytes, pause_s: float) -> None:
    """Send byte by byte until everything is sent or the server has closed the connection."""
    client.settimeout(pause_s)
    for i in range(len(data)):
        try:
            client.sendall(data[i : i + 1])
            if client.recv(1, socket.MSG_PEEK):
                break
        except TimeoutError:
            continue  # nothing was said meanwhile
        except ConnectionError:
            break
    client.settimeout(LONG_S)


def assert_told(received: bytes, part: str) -> None:
    start, _, body = received.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nconnection: close" in start.lower()
    assert f"content-length: {len(body)}".encode() in start
    error = json.loads(body)["error"]
    assert error["type"] == "request_timeout"
    assert (
        error["message"] == f"the request's {part} was not received within 0.2 s (read_timeout_s)"
    )
    assert error["request_id"]


def test_a_request_has_waited_since_it_was_read_while_others_were_answered(address: str) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(address)) for _ in range(6)]
        for client in clients:
            assert ask(client) == b"abcd"  # so that the server has all of them
        for client in clients:
            client.sendall(head(0, "/waited"))
        waited = sorted(float(answered(client)) for client in clients)
    # The first was read alone, the others together while it was answered.
    assert waited[-1] >= 3 * BUSY_S
    assert waited[0] < BUSY_S


def test_a_request_has_arrived_with_the_last_byte_of_its_body(client: socket.socket) -> None:
    client.sendall(head(4, "/waited"))
    time.sleep(2 * BUSY_S)
    client.sendall(b"abcd")
    assert float(answered(client)) < BUSY_S


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(
    client: socket.socket,
) -> None:
    start = time.monotonic()
    assert rest(client) == CLOSED
    assert time.monotonic() - start >= LIMIT_S / 2


@pytest.mark.parametrize("sent", [b"P", b"POST / HTTP/1.1\r\n", head(4)[:-1]])
def test_a_head_that_stops_is_told_so(client: socket.socket, sent: bytes) -> None:
    client.sendall(sent)
    assert_told(rest(client), "head")


def test_a_head_byte_by_byte_has_no_more_time_than_another(client: socket.socket) -> None:
    start = time.monotonic()
    drip(client, head(4) * 1000, LIMIT_S / 20)
    assert time.monotonic() - start < 10 * LIMIT_S
    assert_told(rest(client), "head")


def test_blank_lines_before_a_request_hold_no_connection(client: socket.socket) -> None:
    drip(client, b"\r\n" * 1000, LIMIT_S / 20)
    assert rest(client) == CLOSED


@pytest.mark.parametrize("sent", [b"", b"P", b"\r\n"])
def test_between_requests_time_runs_from_the_first_byte(client: socket.socket, sent: bytes) -> None:
    assert ask(client) == b"abcd"
    time.sleep(2 * LIMIT_S)  # idle connections have longer
    assert ask(client) == b"abcd"
    if not sent:
        return
    client.sendall(sent)
    if sent == b"P":
        assert_told(rest(client), "head")
    else:
        assert rest(client) == CLOSED


def test_an_idle_connection_is_closed_after_keep_alive_s() -> None:
    with listening(APP, config(keep_alive_s=1)) as address, connected(address) as client:
        assert ask(client) == b"abcd"
        start = time.monotonic()
        assert rest(client) == CLOSED
        assert time.monotonic() - start > 0.9


def test_a_head_in_two_pieces_within_the_limit_is_answered(client: socket.socket) -> None:
    for _ in range(2):  # at the start of a connection, and later
        client.sendall(head(4)[:10])
        client.sendall(head(4)[10:] + b"abcd")
        assert answered(client) == b"abcd"


@pytest.mark.parametrize("sent", [b"", b"abc"])
def test_a_body_that_stops_is_told_so(client: socket.socket, sent: bytes) -> None:
    client.sendall(head(4) + sent)
    assert_told(rest(client), "body")


def test_a_body_byte_by_byte_has_no_more_time_than_another(client: socket.socket) -> None:
    client.sendall(head(1000))
    start = time.monotonic()
    drip(client, b"x" * 1000, LIMIT_S / 20)
    assert time.monotonic() - start < 10 * LIMIT_S
    assert_told(rest(client), "body")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"error": {"message", "type", "param", "code", "request_id"}}),
        ("/embed", {"error", "error_type", "field"}),
        ("/v2/models/tiny/infer", {"error"}),
    ],
)
def test_a_slow_body_is_told_so_in_the_form_of_its_protocol(
    client: socket.socket, path: str, fields: object
) -> None:
    client.sendall(head(4, path))
    start, _, body = rest(client).partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 408 ")
    found = json.loads(body)
    assert b"read_timeout_s" in body
    assert set(found) == set(fields)  # type: ignore[call-overload]
    if isinstance(fields, dict):
        assert set(found["error"]) == fields["error"]


def test_an_answer_may_take_longer_than_the_request(client: socket.socket) -> None:
    assert ask(client, path="/late") == b"abcd"


def test_a_body_that_was_answered_unread_has_to_end_in_time(client: socket.socket) -> None:
    client.sendall(head(1_000_000, "/unread") + b"x")
    assert json.loads(answered(client))["error"]["type"] == "payload_too_large"
    drip(client, b"x" * 1000, LIMIT_S / 20)
    assert rest(client) == CLOSED


def test_a_websocket_is_an_ordinary_request(client: socket.socket) -> None:
    client.sendall(
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    assert answered(client) == b""


def test_pipelined_requests_are_answered_in_order_before_a_head_that_stops(
    client: socket.socket,
) -> None:
    client.sendall(head(4, "/late") + b"late" + head(4) + b"next" + b"POST")
    received = rest(client)
    assert received.index(b"late") < received.index(b"next")
    assert received.count(b"HTTP/1.1 200 ") == 2

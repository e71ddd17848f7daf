"""Heads at a real server that are none, or too large."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from server.errors import MalformedRequestError, RheostatError
from server.http.forms import Forms
from server.http.heads import Framing, read_head
from server.http.middleware import BodyTimeout, RequestId
from server.http.serving import configured
from server.settings import Settings
from tests.server.bytewise import answered, connected, rest
from tests.server.listening import listening
from tests.server.written import Written

BYTES = 2000
FIELDS = 20
CHUNKED = b"POST /own HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
faults: list[str] = []


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Say which fields the head has, then what the body is."""
    request = Request(scope, receive)
    body = (await request.body()).decode()
    names = " ".join(sorted(request.headers))
    await PlainTextResponse(f"{names}: {body}")(scope, receive, send)


def note(error: RheostatError) -> None:
    faults.append(error.error_type)


APP = RequestId(BodyTimeout(answer, 30), Forms({}), on_fault=note)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    found = configured(APP, Settings(max_head_bytes=BYTES, max_head_fields=FIELDS))
    found.port = 0
    found.lifespan = "off"
    with listening(APP, found) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[socket.socket]:
    faults.clear()
    with connected(address) as client:
        yield client


def error_in(received: bytes) -> tuple[int, dict[str, Any]]:
    """Return the status and the error of an answer in the server's own form that ends it all."""
    start, _, body = received.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in start.lower()
    error: dict[str, Any] = json.loads(body)["error"]
    assert f"x-request-id: {error['request_id']}".encode() in start
    assert set(error) == {"type", "message", "field", "request_id"}
    return int(start.split()[1]), error


def head(*fields: bytes, target: bytes = b"/own") -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"host: x", *fields, b"", b""])


def sized(num_bytes: int) -> bytes:
    return head(b"a: " + b"x" * (num_bytes - len(head(b"a: "))))


def test_a_head_may_have_as_many_bytes_as_the_limit_says(client: socket.socket) -> None:
    assert len(sized(BYTES)) == BYTES
    for _ in range(2):
        client.sendall(sized(BYTES))
        assert answered(client) == b"a host: "
    client.sendall(sized(BYTES + 1))
    status, error = error_in(rest(client))
    assert (status, error["type"]) == (431, "head_too_large")
    assert error["message"] == "the head exceeds 2000 bytes (max_head_bytes)"
    assert faults == ["head_too_large"]


def test_a_head_may_have_as_many_fields_as_the_limit_says(client: socket.socket) -> None:
    fields = [b"a%d:" % i for i in range(FIELDS - 1)]
    client.sendall(head(*fields))
    assert answered(client).count(b"a") == FIELDS - 1
    client.sendall(head(*fields, b"one:"))
    status, error = error_in(rest(client))
    assert status == 431
    assert error["message"] == "the head has more than 20 fields (max_head_fields)"


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"GET /own HTTP/1.1\r\n", b"a:\r\n"),
        (b"GET /own HTTP/1.1\r\na: ", b"x"),
        (b"GET /own HTTP/1.1\r\na: ", b" "),
        (b"GET /own HTTP/1.1\r\n", b"x"),
        (b"GET /", b"x"),
        (b"GET /?", b"x"),
    ],
    ids=["fields", "value", "spaces", "name", "path", "query"],
)
def test_a_head_without_end_is_refused_and_whoever_goes_on_sending_can_read_it(
    client: socket.socket, first: bytes, again: bytes
) -> None:
    client.sendall(first)
    with suppress(OSError):
        for _ in range(300):  # the server reads on for a moment, and slowly
            client.sendall(again * 65536)
    status, error = error_in(rest(client))
    assert (status, error["type"]) == (431, "head_too_large")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_head_is_refused_however_it_is_cut(client: socket.socket, size: int) -> None:
    data = head(*[b"a:"] * 30)
    with suppress(OSError):
        for i in range(0, len(data), size):
            client.sendall(data[i : i + size])
    assert error_in(rest(client))[0] == 431


def test_blank_lines_without_end_are_left_without_a_word(client: socket.socket) -> None:
    client.sendall(b"\r\n" * BYTES + head())
    with suppress(ConnectionResetError):
        assert rest(client) == b""
    assert not faults


def test_a_few_blank_lines_before_a_request_are_nothing(client: socket.socket) -> None:
    for _ in range(2):
        client.sendall(b"\r\n")
        client.sendall(b"\r\n\r\n" + head())
        assert answered(client) == b"host: "


TRAILER = "the trailer has more than 20 fields (max_head_fields)"
FRAMING = "what is not content exceeds the content by 2000 bytes (max_head_bytes)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"1\r\na\r\n0\r\n" + b"a:\r\n" * 30, TRAILER),
        (b"1\r\na\r\n0\r\na: " + b"x" * 5000, FRAMING),
        (b"1;" + b"x" * 5000, FRAMING),
        (b"1;x=y" + b"z" * 50 + b"\r\na\r\n", FRAMING),
        (b"1\r\na\r\n", FRAMING),
        (b"00000001\r\na\r\n", FRAMING),
    ],
    ids=["trailers", "trailer", "extension", "extensions", "bytes", "zeros"],
)
def test_what_a_body_has_beside_its_content_is_limited(
    client: socket.socket, body: bytes, message: str
) -> None:
    client.sendall(CHUNKED + body * 1000)
    status, error = error_in(rest(client))
    assert (status, error["message"]) == (431, message)
    assert faults == ["head_too_large"]


@pytest.mark.parametrize("size", [6, 100, 5000])
def test_content_in_chunks_that_are_not_tiny_has_no_limit_here(
    client: socket.socket, size: int
) -> None:
    chunk = b"%x\r\n%s\r\n" % (size, b"x" * size)
    client.sendall(CHUNKED + chunk * 2000 + b"0\r\n\r\n")
    assert answered(client) == b"host transfer-encoding: " + b"x" * size * 2000


def test_trailers_are_no_fields_of_the_head(client: socket.socket) -> None:
    client.sendall(CHUNKED + b"1\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    assert answered(client) == b"host transfer-encoding: a"


MALFORMED = {
    "method": b"GOT / HTTP/1.1\r\nhost: x\r\n\r\n",
    "lower case": b"get / HTTP/1.1\r\nhost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "version": b"GET / HTTP/1.2\r\nhost: x\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    "field": b"GET / HTTP/1.1\r\nhost: x\r\nab\r\n\r\n",
    "space": b"GET / HTTP/1.1\r\nhost: x\r\na : b\r\n\r\n",
    "folded": b"GET / HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\nhost: x\r\na: b\0\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nhost: x\r\na\0: b\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nhost: x\n\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nhost: x\r\nHost: x\r\n\r\n",
    "no host at all": b"GET / HTTP/1.1\r\nhost: x y\r\n\r\n",
    "no path": b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n",
    "no target": b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    "bytes in a path": b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    "both lengths": head(b"content-length: 1", b"transfer-encoding: chunked"),
    "both, the other way round": head(b"transfer-encoding: chunked", b"content-length: 1"),
    "two lengths": head(b"content-length: 1", b"content-length: 1"),
    "a list of lengths": head(b"content-length: 1, 1"),
    "a sign": head(b"content-length: +1"),
    "a length too long": head(b"content-length: " + b"9" * 30),
    "a coding": head(b"transfer-encoding: gzip"),
    "two codings": head(b"transfer-encoding: gzip, chunked"),
    "chunked in 1.0": b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_head_gets_400_in_the_servers_form_is_logged_and_counted(
    client: socket.socket, sent: bytes, written: Written
) -> None:
    client.sendall(sent)
    status, error = error_in(rest(client))
    assert (status, error["type"]) == (400, "malformed_request")
    assert faults == ["malformed_request"]
    (line,) = written.access()
    assert (line["method"], line["path"], line["status"]) == ("-", "-", 400)
    assert line["request_id"] == error["request_id"]


@pytest.mark.parametrize("body", [b"zz\r\n", b"1\r\nab\r\n", b"1 \r\na\r\n", b"-1\r\n", b"F" * 20])
def test_a_body_that_stops_being_http_is_told_so(client: socket.socket, body: bytes) -> None:
    client.sendall(CHUNKED + body + b"\r\n")
    status, error = error_in(rest(client))
    assert (status, error["type"]) == (400, "malformed_request")


def test_what_comes_before_a_fault_is_answered_first(client: socket.socket) -> None:
    client.sendall(head(b"one:") + head(b"two:") + b"GARBAGE\r\n\r\n" + head(b"three:"))
    received = rest(client)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"400"]
    assert received.index(b"one") < received.index(b"two") < received.index(b"malformed_request")
    assert b"three" not in received


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
def test_an_offer_of_another_protocol_is_declined_and_the_body_read(
    client: socket.socket, upgrade: str
) -> None:
    offer = f"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: {upgrade}\r\n".encode()
    for _ in range(2):
        client.sendall(b"GET /own HTTP/1.1\r\n" + offer + b"\r\n")
        assert answered(client) == b"connection host upgrade: "
        client.sendall(b"POST /own HTTP/1.1\r\n" + offer + b"content-length: 3\r\n\r\na")
        client.sendall(b"bc")
        assert answered(client) == b"connection content-length host upgrade: abc"
        client.sendall(b"POST /own HTTP/1.1\r\n" + offer + b"transfer-encoding: chunked\r\n\r\n")
        client.sendall(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
        assert answered(client).endswith(b": abc")


HOST = (b"host", b"x")
CHUNKS = (b"transfer-encoding", b" Chunked")


@pytest.mark.parametrize(
    ("headers", "version", "target", "expected"),
    [
        ([(b"host", b"")], "1.1", b"/", Framing(0, False)),
        ([(b"host", b"[::1]:8000")], "1.1", b"/", Framing(0, False)),
        ([], "1.0", b"/", Framing(0, False)),
        ([HOST, (b"content-length", b"017")], "1.1", b"http://x/a", Framing(17, False)),
        ([CHUNKS, HOST], "1.1", b"/", Framing(0, True)),
        ([HOST], "1.1", b"x:80", "the request has no path"),
        ([(b"host", b"x/y")], "1.1", b"/", "the field Host is no host"),
        ([HOST, HOST], "1.0", b"/", "the head has 2 fields Host"),
        ([CHUNKS, HOST, CHUNKS], "1.1", b"/", "must be chunked"),
    ],
)
def test_a_head_is_judged_by_host_coding_version_and_target(
    headers: list[tuple[bytes, bytes]], version: str, target: bytes, expected: Framing | str
) -> None:
    if isinstance(expected, Framing):
        assert read_head(headers, version, target) == expected
        return
    with pytest.raises(MalformedRequestError, match=expected):
        read_head(headers, version, target)

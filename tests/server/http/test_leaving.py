"""Clients that leave while a request is being answered, at a real server and at an app alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from server.http.forms import Forms
from server.http.leaving import LEAVING, watch
from server.http.middleware import RequestId
from server.http.serving import configured
from server.settings import Settings
from tests.server.bytewise import LONG_S, answered, connected
from tests.server.listening import listening
from tests.server.samples import Connection, run

MB = 1_000_000

begun, told = threading.Event(), threading.Event()


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body; at /held wait until the client has left, else answer at once."""
    body = await Request(scope, receive).body()
    gone = asyncio.Event()
    end = watch(scope, receive, gone.set)
    try:
        if scope["path"] == "/held":
            begun.set()
            async with asyncio.timeout(LONG_S):
                await gone.wait()
            told.set()
    finally:
        end()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


APP = RequestId(answer, Forms({}))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    found = configured(APP, Settings())
    found.port = 0
    found.lifespan = "off"
    with listening(APP, found) as address:
        yield address


@pytest.fixture(autouse=True)
def anew() -> None:
    begun.clear()
    told.clear()


@pytest.mark.parametrize("size", [0, 10, 2 * MB])
def test_a_client_that_leaves_is_noticed(address: str, size: int) -> None:
    client = connected(address)
    head = b"POST /held HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
    client.sendall(head + b"x" * size)
    assert begun.wait(LONG_S)
    client.close()
    assert told.wait(LONG_S)


def test_a_client_that_has_left_before_anybody_watches_is_noticed() -> None:
    async def scenario() -> None:
        connection = Connection("/held", {})
        connection.body(b"x")
        connection.leave()
        await connection.serve(APP)
        assert told.is_set()

    run(scenario())


def test_a_connection_goes_on_after_requests_that_were_watched(address: str) -> None:
    with connected(address) as client:
        for size in (1, 2, 3):
            head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
            client.sendall(head + b"x" * size)
            assert answered(client) == b"%d" % size
    assert not told.is_set()


def test_our_own_connections_tell_without_being_asked() -> None:
    seen: list[bool] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(LEAVING in scope["state"])
        await PlainTextResponse("")(scope, receive, send)

    app = RequestId(note, Forms({}))
    found = configured(app, Settings())
    found.port = 0
    found.lifespan = "off"
    with listening(app, found) as own, connected(own) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answered(client)
    assert seen == [True]

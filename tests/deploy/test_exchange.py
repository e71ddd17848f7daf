from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from deploy.exchange import Answered, Asked, ask

ASKED = Asked("POST", "/a b", b"x=1", ((b"content-type", b"text/plain"),), b"hello")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    start: Message = {"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]}
    await send(start)
    for part in (message["body"], scope["query_string"], scope["raw_path"]):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


def test_an_application_gets_the_whole_request_and_gives_the_whole_response() -> None:
    answered = asyncio.run(ask(echo, ASKED, "me"))
    assert answered == Answered(201, ((b"a", b"b"),), b"hellox=1/a%20b", "me")


def test_an_application_that_says_nothing_is_an_error() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    with pytest.raises(RuntimeError, match="POST /a b ended without a response"):
        asyncio.run(ask(silent, ASKED))


def test_cancelling_reaches_an_application_that_waits_for_its_client() -> None:
    left = []

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await receive()
        except asyncio.CancelledError:
            left.append(True)
            raise

    async def run() -> None:
        task = asyncio.create_task(ask(waiting, ASKED))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(run())
    assert left == [True]


def test_a_response_leaves_out_what_belongs_to_one_connection() -> None:
    raw = ((b"content-length", b"999"), (b"connection", b"close"), (b"x-rheostat-flops", b"1"))
    response = Answered(200, raw, b"{}").response()
    assert dict(response.raw_headers) == {b"content-length": b"2", b"x-rheostat-flops": b"1"}

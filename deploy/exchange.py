"""One HTTP request and its response as plain values, to be carried between processes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from server.http.routed import route_path

RawHeaders = tuple[tuple[bytes, bytes], ...]
_OF_A_CONNECTION = {b"content-length", b"transfer-encoding", b"connection", b"x-request-id"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, whole.

    Attributes:
        method: In capitals.
        path: Decoded.
        query: As sent, without the question mark.
        headers: Names in lower case.
        body: Whole.
    """

    method: str
    path: str
    query: bytes = b""
    headers: RawHeaders = ()
    body: bytes = b""

    @classmethod
    async def of(cls, request: Request) -> Asked:
        """Read a request; its id is the one it was given here."""
        scope = request.scope
        body = await request.body()
        kept = [pair for pair in scope["headers"] if pair[0] not in _OF_A_CONNECTION]
        own = (b"x-request-id", scope["state"]["request_id"].encode())
        length = (b"content-length", str(len(body)).encode())
        headers = (*kept, own, length)
        return cls(request.method, route_path(scope), scope["query_string"], headers, body)


@dataclass(frozen=True, slots=True)
class Answered:
    """A response, whole.

    Attributes:
        status: HTTP status.
        headers: Names in lower case.
        body: Whole.
        replica: Who answered; empty outside a cluster.
    """

    status: int
    headers: RawHeaders
    body: bytes
    replica: str = ""

    def response(self) -> Response:
        """Return it to be sent, without what belongs to one connection."""
        response = Response(self.body, self.status)
        response.raw_headers += [p for p in self.headers if p[0] not in _OF_A_CONNECTION]
        return response


async def ask(app: ASGIApp, asked: Asked, replica: str = "") -> Answered:
    """Let an application answer; cancelling this is to it as a client that leaves.

    Raises:
        RuntimeError: If it ends without a response.
    """
    status: int | None = None
    headers: RawHeaders = ()
    body = bytearray()
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            await asyncio.Event().wait()  # the client stays until this is cancelled
        is_read = True
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], tuple(map(tuple, message["headers"]))
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "raw_path": quote(asked.path).encode(),
        "query_string": asked.query,
        "root_path": "",
        "headers": list(asked.headers),
        "client": None,
        "server": None,
    }
    await app(scope, receive, send)
    if status is None:
        raise RuntimeError(f"{asked.method} {asked.path} ended without a response")
    return Answered(status, headers, bytes(body), replica)

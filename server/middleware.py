"""What every request passes first: an id, a limit on its body, and an answer to any error."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import logs
from server.errors import ModelNotReadyError, PayloadTooLargeError
from server.forms import Forms

_HEADER = b"x-request-id"
_ACCEPTED_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")


class RequestId:
    """Give each request an id, the client's own if it is a plain word, send it back and log it.

    Also the outer edge: an exception that nothing below has answered becomes a response here.
    """

    def __init__(
        self, app: ASGIApp, forms: Forms, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._app = app
        self._forms = forms
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = self._clock()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        current = logs.begin(request_id)
        status: int | None = None  # until the answer has begun

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (_HEADER, request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except (Exception, asyncio.CancelledError) as error:  # the outer edge
            if status is not None:
                raise
            if isinstance(error, asyncio.CancelledError):  # `serving.Server` waits no longer
                error = ModelNotReadyError("the server stopped before this request was done")
            answer = self._forms.respond(error, scope)
            await answer(scope, receive, send_with_id)
        finally:
            logs.note_access(scope, status, self._clock() - start, current)


class BodyLimit:
    """Stop reading a body that is, or says it will be, larger than allowed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0
        declared = dict(scope["headers"]).get(b"content-length", b"").lstrip(b"0")
        limit = str(self._max_bytes).encode()
        # By length first: a number of thousands of digits is never converted.
        is_declared_too_large = (len(declared), declared) > (len(limit), limit)

        async def receive_limited() -> Message:
            nonlocal received
            if is_declared_too_large:
                raise self._too_large()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_limited, send)

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"the body exceeds {self._max_bytes} bytes (max_body_bytes)")


def _request_id(scope: Scope) -> str:
    given: bytes = dict(scope["headers"]).get(_HEADER, b"")
    return given.decode() if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex

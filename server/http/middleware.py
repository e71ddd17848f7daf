"""What every request passes first: an id, limits on its body, and an answer to any error.

Middleware that has nothing to do after the application returns what the application does, and is no
coroutine: a request that waits would be resumed through each of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import (
    ModelNotReadyError,
    PayloadTooLargeError,
    RequestTimeoutError,
    RheostatError,
)
from server.http.forms import Forms
from server.http.heads import FAULT, WHOLE
from server.observe import arrival, logs
from server.observe.watchdog import Watchdog

_HEADER = b"x-request-id"


class RequestId:
    """Give each request an id, the client's own if it is a plain word, send it back and log it.

    Also the outer edge: an exception that nothing below has answered becomes a response here.
    """

    def __init__(
        self,
        app: ASGIApp,
        forms: Forms,
        clock: Callable[[], float] = time.perf_counter,
        on_fault: Callable[[RheostatError], None] = lambda error: None,
    ) -> None:
        """Go around an application.

        Args:
            app: The application.
            forms: Spell errors.
            clock: Returns seconds.
            on_fault: Told of every request that the connection found to be none.
        """
        self._app = app
        self._forms = forms
        self._clock = clock
        self._on_fault = on_fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = self._clock()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        arrival.follow(scope["state"])
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
            if fault := scope["state"].get(FAULT):
                raise fault
            await self._app(scope, receive, send_with_id)
        except (Exception, asyncio.CancelledError) as error:  # the outer edge
            if status is not None:
                raise
            if isinstance(error, asyncio.CancelledError):  # `serving.Server` waits no longer
                error = ModelNotReadyError("the server stopped before this request was done")
            answer = self._forms.respond(error, scope)
            await answer(scope, receive, send_with_id)
        finally:
            if fault := scope["state"].get(FAULT):
                self._on_fault(fault)
            logs.note_access(scope, status, self._clock() - start, current)


class Shedding:
    """Refuse what is posted unread while the event loop does not keep up; the rest is answered."""

    def __init__(
        self, app: ASGIApp, watchdog: Watchdog, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._app = app
        self._watchdog = watchdog
        self._clock = clock

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] == "http" and scope["method"] == "POST":
            now = self._clock()
            self._watchdog.check(now - arrival.arrived(now))
        return self._app(scope, receive, send)


class BodyLimit:
    """Stop reading a body that is, or says it will be, larger than allowed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
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

        return self._app(scope, receive_limited, send)

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(f"the body exceeds {self._max_bytes} bytes (max_body_bytes)")


class BodyTimeout:
    """Stop waiting for a body that has not arrived as a whole in time.

    The limit is on the whole, not between bytes, of which a client could send one a second. It is
    over with the body: an answer may take longer, and so may listening for a client that leaves.
    """

    def __init__(self, app: ASGIApp, limit_s: float) -> None:
        self._app = app
        self._limit_s = limit_s

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        deadline = asyncio.get_running_loop().time() + self._limit_s
        is_received = False

        async def receive_in_time() -> Message:
            nonlocal is_received
            if is_received or scope["state"].get(WHOLE):
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeoutError.of("body", self._limit_s) from None
            if fault := scope["state"].get(FAULT):  # the connection cannot go on with the body
                raise fault
            is_received = not message.get("more_body", False)
            return message

        return self._app(scope, receive_in_time, send)


def _request_id(scope: Scope) -> str:
    given: bytes = dict(scope["headers"]).get(_HEADER, b"")
    return logs.id_or_new(given.decode("latin-1"))

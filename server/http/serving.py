"""Runs the web server, and ends it without losing a request.

Told to end, the server is no longer ready at once. For `drain_s` it answers all that comes, so that
load balancers can notice; then it stops listening. What is under way has `grace_s`; what is left
after that is told so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from socket import socket
from types import FrameType
from typing import cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from server import garbage
from server.errors import RheostatError
from server.http.accepting import AT_ONCE, Acceptor
from server.http.connection import limited
from server.http.heads import Limits
from server.settings import Settings

log = logging.getLogger(__name__)

_CLOSE = (b"connection", b"close")
_SETTLE_S = 0.1  # in which what has arrived by the time that listening stops is read
_LAST_WORDS_S = 1  # for requests that are ended to say so


class Server(uvicorn.Server):
    """Uvicorn's server, but it drains first, and requests it ends are answered."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Callable[[], None],
        drain_s: float,
        grace_s: float,
        announce: Callable[[], None] = lambda: None,
        is_alone: bool = True,
    ) -> None:
        """Create a server that does not run yet.

        Args:
            config: Uvicorn's.
            drain: Called as soon as a signal says that the server is to end.
            drain_s: Requests are still taken for so long after that.
            grace_s: For those under way when listening has stopped.
            announce: Called once it listens.
            is_alone: Whether no other process takes connections from the same sockets.
        """
        super().__init__(config)
        self._at_once = AT_ONCE if is_alone else 1
        config.timeout_graceful_shutdown = math.ceil(grace_s) + _LAST_WORDS_S
        self._drain = drain
        self._drain_s = drain_s
        self._grace_s = grace_s
        self._announce = announce
        self._drained_at: float | None = None
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        # Somebody else may have begun to listen there since it was bound; uvloop says so like this.
        if any(one is None for server in self.servers for one in server.sockets):
            log.error("cannot listen on %s: address already in use", self.config.host)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        garbage.settle()  # while hardly anybody waits
        if sockets:
            self._log_started_message(sockets)
        self._announce()
        if not type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
            return
        connect = partial(
            cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        for server in self.servers:
            self._acceptors += [
                Acceptor(one.fileno(), connect, self._at_once) for one in server.sockets
            ]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal that ends the server."""
        self._drain()
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to stop listening; called ten times a second."""
        is_over = await super().on_tick(counter)
        if not self.should_exit:
            return is_over
        now = asyncio.get_running_loop().time()
        if self._drained_at is None:
            self._drained_at = now + self._drain_s
            log.info("draining for %g s", self._drain_s)
            # Each answer asks its client to connect anew, which then finds another server.
            self.config.encoded_headers.append(_CLOSE)
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        return self.force_exit or now >= self._drained_at

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop listening, wait for what is under way, end what is left."""
        for acceptor in self._acceptors:
            acceptor.close()
        for server in self.servers:
            server.close()
        if not self.force_exit:
            await asyncio.sleep(_SETTLE_S)
        deadline = asyncio.get_running_loop().call_later(self._grace_s, self._end_requests)
        try:
            await super().shutdown(sockets)
        finally:
            deadline.cancel()

    def _end_requests(self) -> None:
        tasks = self.server_state.tasks
        if tasks:
            log.warning("%d requests were not done in grace_s=%g", len(tasks), self._grace_s)
        for task in tasks:
            task.cancel()  # `RequestId` tells the client


class PlainStart:
    """Says in one line, instead of a traceback, why the application could not start."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer as the application does."""
        if scope["type"] != "lifespan":
            return self.app(scope, receive, send)
        return self._live(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_plain(message: Message) -> None:
            error = sys.exception()  # the one that is being handled
            if message["type"] == "lifespan.startup.failed" and isinstance(error, RheostatError):
                message = {**message, "message": error.message}
            await send(message)

        await self.app(scope, receive, send_plain)


def configured(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn is to serve an application."""
    limits = Limits(settings.read_timeout_s, settings.max_head_bytes, settings.max_head_fields)
    return uvicorn.Config(
        PlainStart(app),
        host=settings.host,
        port=settings.port,
        http=limited(limits),
        ws="none",
        interface="asgi3",  # told by coroutine functions otherwise, and `PlainStart` is none
        timeout_keep_alive=settings.keep_alive_s,
        log_config=None,  # its loggers write where all others do
        access_log=False,  # `RequestId` writes it
        proxy_headers=settings.traces is not None,  # only traces tell a client's address
    )


def serve(
    app: ASGIApp,
    settings: Settings,
    drain: Callable[[], None],
    sockets: list[socket],
    announce: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal says to end; then take the signal's own way out.

    Args:
        app: Answers.
        settings: How to end.
        drain: Called as soon as a signal says that the server is to end.
        sockets: Bound to where to listen.
        announce: Called once it listens.
    """
    config = configured(app, settings)
    server = Server(
        config, drain, settings.drain_s, settings.grace_s, announce, settings.num_http_workers <= 1
    )
    with suppress(KeyboardInterrupt):  # raised after a good end
        server.run(sockets)
    if not server.started:
        sys.exit(STARTUP_FAILURE)

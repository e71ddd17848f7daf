"""Paths and methods of requests, before any route sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import MethodNotAllowedError, UnknownPathError
from server.http.routed import route_path
from server.http.scopes import template_of


class Prefix:
    """Let the server stand below a path of a proxy, whether the proxy takes that off or not.

    As ASGI has it, the path below is whole, and ``root_path`` says which part of it is the prefix.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        """Go around an application.

        Args:
            app: The application.
            root_path: With a slash before it and none behind; none of the server's own paths.
        """
        self._app = app
        self._root = root_path

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] == "http":
            path, raw = scope["path"], scope.get("raw_path") or b""
            is_whole = path == self._root or path.startswith(f"{self._root}/")
            if path.startswith("/") and not is_whole:
                path, raw = self._root + path, self._root.encode() + raw
            if path == self._root:
                path += "/"
            scope = {**scope, "root_path": self._root, "path": path, "raw_path": raw}
        return self._app(scope, receive, send)


class HeadMethod:
    """Answer HEAD as GET, without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return self._app(scope, receive, send)
        return self._answer_head(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # The web server has to go on seeing a HEAD, so its scope stays as it is.
        inner = {**scope, "method": "GET"}
        await self._app(inner, receive, send_head)
        scope["route"] = inner.get("route")  # for the log


class Methods:
    """Refuse methods that a path does not have, and say which it has."""

    def __init__(self, app: ASGIApp, methods: Mapping[str, Collection[str]]) -> None:
        """Go around an application.

        Args:
            app: The application.
            methods: Of each path's template, as `server.http.scopes.SCOPES` spells it.
        """
        self._app = app
        self._methods = methods

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] == "http":
            has = self._methods.get(template_of(route_path(scope)))
            if has is None:  # turned off
                raise UnknownPathError("nothing answers at this path")
            if scope["method"] not in has:
                error = MethodNotAllowedError("this path answers other methods")
                error.headers = {"Allow": ", ".join(sorted({*has, *(["HEAD"] * ("GET" in has))}))}
                raise error
        return self._app(scope, receive, send)

"""`/ui`: a page for people, made of files of this server alone.

The files are HTML, CSS and modules of JavaScript as they are in `static`; nothing builds them. The
page asks the paths that everybody asks, with the key that its reader types in, and its policy
forbids the browser every other origin.
"""

from __future__ import annotations

from collections.abc import Awaitable
from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import UnknownPathError
from server.http.routed import route_path

PATH = "/ui"
_PAGE = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # images that the reader drops
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # another version of the server has other files
}


def routes() -> APIRouter:
    """Return the page and what it loads, which no document describes."""
    router = APIRouter(include_in_schema=False)
    contents = {
        file.name: (file.read_bytes(), _TYPES[PurePath(file.name).suffix])
        for file in files("server.ui").joinpath("static").iterdir()
    }

    def answer(name: str) -> Response:
        content, media_type = contents[name]
        return Response(content, media_type=media_type, headers=_HEADERS)

    @router.get(PATH)
    async def page() -> Response:
        return answer(_PAGE)

    @router.get(f"{PATH}/{{name}}")
    async def asset(name: str) -> Response:
        if name not in contents:
            raise UnknownPathError("nothing answers at this path")
        return answer(name)

    return router


class ToPage:
    """Send browsers that open the root to the page; all else gets the root's usual answer.

    A browser says that it takes HTML (RFC 9110, section 12.5.1). Programs do not, or want anything.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle one connection."""
        if scope["type"] == "http" and scope["method"] == "GET" and _opens(scope):
            target = f"{scope.get('root_path', '')}{PATH}"
            answer = RedirectResponse(target, headers={"Vary": "Accept"})
            return answer(scope, receive, send)
        return self._app(scope, receive, send)


def _opens(scope: Scope) -> bool:
    path = route_path(scope)
    if path != "/":
        return path == f"{PATH}/"
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])

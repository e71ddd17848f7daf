"""Posts at fixed paths are answered without what the framework does around a route's function.

FastAPI tries the patterns of all routes, twice where routers are included, keeps exit stacks and
solves dependencies: a quarter of the event loop's time for a short text. Functions that take
nothing but the request need none of that. They stay ordinary routes, which document them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.routed import route_path


class Direct:
    """Calls the functions of routes that take nothing but the request; passes the rest on.

    An exception is none of its business: what is around it answers those.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """Take the routes that can be called so out of all that there are."""
        self._app = app
        self._routes = {
            route.path: _Called(route)
            for route in routes
            if isinstance(route, APIRoute) and _is_simple(route)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        found = None
        if scope["type"] == "http" and scope["method"] == "POST":
            found = self._routes.get(route_path(scope))
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = found.route  # for the log
        response = await found.answer(Request(scope, receive))
        await response(scope, receive, send)


class _Called:
    """A route whose function is called without the framework."""

    def __init__(self, route: APIRoute) -> None:
        self.route = route
        model = route.response_model
        self._adapter: TypeAdapter[Any] | None = None if model is None else TypeAdapter(model)
        self._request_name = route.dependant.request_param_name or ""
        self._response_name = route.dependant.response_param_name

    async def answer(self, request: Request) -> Response:
        """Return the response, written as the framework would if the function has not."""
        given: dict[str, Any] = {self._request_name: request}
        response = None
        if self._response_name is not None:
            response = given[self._response_name] = self._empty()
        answer = await self.route.endpoint(**given)
        if isinstance(answer, Response):
            return answer
        response = response or self._empty()
        assert self._adapter is not None, "what is no response has a model"
        response.body = self._adapter.dump_json(
            answer, by_alias=True, exclude_unset=self.route.response_model_exclude_unset
        )
        response.headers["content-length"] = str(len(response.body))
        return response

    def _empty(self) -> Response:
        return Response(status_code=self.route.status_code or 200, media_type="application/json")


def _is_simple(route: APIRoute) -> bool:
    needs = route.dependant
    return (
        route.methods == {"POST"}
        and needs.request_param_name is not None
        and not needs.dependencies
        and not (needs.path_params or needs.query_params or needs.header_params)
        and not (needs.cookie_params or needs.body_params)
    )

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
            route.path: (route, _adapter(route))
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
        route, adapter = found
        scope["route"] = route  # for the log
        given = Request(scope, receive)
        response = Response(status_code=route.status_code or 200, media_type="application/json")
        names = (route.dependant.request_param_name, route.dependant.response_param_name)
        values = {n: v for n, v in zip(names, (given, response), strict=True) if n is not None}
        answer = await route.endpoint(**values)
        if adapter is None or isinstance(answer, Response):
            response = answer
        else:
            response.body = adapter.dump_json(
                answer, by_alias=True, exclude_unset=route.response_model_exclude_unset
            )
            response.headers["content-length"] = str(len(response.body))
        await response(scope, receive, send)


def _is_simple(route: APIRoute) -> bool:
    needs = route.dependant
    return (
        route.methods == {"POST"}
        and needs.request_param_name is not None
        and not needs.dependencies
        and not (needs.path_params or needs.query_params or needs.header_params)
        and not (needs.cookie_params or needs.body_params)
    )


def _adapter(route: APIRoute) -> TypeAdapter[Any] | None:
    """Return what writes a function's answers; None if it returns responses."""
    return None if route.response_model is None else TypeAdapter(route.response_model)

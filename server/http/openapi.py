"""The application's description of itself, put right where FastAPI cannot know better."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

from server.http.scopes import PUBLIC, SCOPES

_AUTOMATIC = ("HTTPValidationError", "ValidationError")  # schemas of an error that nobody gets
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class DocumentedApp(FastAPI):
    """FastAPI with a true OpenAPI document.

    It says which paths need a key, and leaves out the status 422 that FastAPI adds to every path
    with a parameter: where ours can be wrong, the route documents the error in its protocol's form.

    Its middleware goes around the framework's, so that who answers without the framework passes
    none of that.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """Return the application with all middleware, of which `add_middleware` put the last on."""
        own, self.user_middleware = self.user_middleware, []
        try:
            app = super().build_middleware_stack()
        finally:
            self.user_middleware = own
        if own and isinstance(app, ServerErrorMiddleware):
            app = app.app  # `server.http.middleware.RequestId` answers what nobody else has
        for middleware in reversed(own):
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app

    def openapi(self) -> dict[str, Any]:
        """Return the document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path, methods in document["paths"].items():
                for operation in methods.values():
                    _correct(operation, needs_key=SCOPES.get(path) is not PUBLIC)
            components = document.setdefault("components", {})
            for name in _AUTOMATIC:
                components.get("schemas", {}).pop(name, None)
            components["securitySchemes"] = _KEYS
        return super().openapi()


def _correct(operation: dict[str, Any], needs_key: bool) -> None:
    responses = operation["responses"]
    if _AUTOMATIC[0] in str(responses.get("422")):
        del responses["422"]
    if needs_key:
        operation["security"] = [{name: []} for name in _KEYS]

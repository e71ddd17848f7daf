"""`/docs` and `/redoc`: the OpenAPI document for people, from files of this server alone.

Swagger UI and ReDoc come with the package `fastapi-offline`. What their scripts would load from
elsewhere by themselves, such as a logo, the pages' policy forbids to the browser.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, Response

from server.errors import UnknownPathError

ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png")
_FOLDER = "/docs/assets"
_DOCUMENT = "/openapi.json"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def routes(title: str) -> APIRouter:
    """Return the pages, which no document describes.

    Args:
        title: Of the application.
    """
    router = APIRouter(include_in_schema=False)
    paths = {name: str(files("fastapi_offline").joinpath("static", name)) for name in ASSETS}

    def asset(request: Request, name: str) -> str:
        return f"{request.scope.get('root_path', '')}{_FOLDER}/{name}"

    def document(request: Request) -> str:
        return f"{request.scope.get('root_path', '')}{_DOCUMENT}"

    def page(html: HTMLResponse) -> HTMLResponse:
        html.headers["Content-Security-Policy"] = _POLICY
        return html

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        return page(
            get_swagger_ui_html(
                openapi_url=document(request),
                title=f"{title} - Swagger UI",
                swagger_js_url=asset(request, "swagger-ui-bundle.js"),
                swagger_css_url=asset(request, "swagger-ui.css"),
                swagger_favicon_url=asset(request, "favicon.png"),
                # By default it asks a service elsewhere whether the document is valid.
                swagger_ui_parameters={"validatorUrl": None},
            )
        )

    @router.get("/redoc")
    async def redoc(request: Request) -> Response:
        return page(
            get_redoc_html(
                openapi_url=document(request),
                title=f"{title} - ReDoc",
                redoc_js_url=asset(request, "redoc.standalone.js"),
                redoc_favicon_url=asset(request, "favicon.png"),
                with_google_fonts=False,
            )
        )

    @router.get(f"{_FOLDER}/{{name}}")
    async def assets(name: str) -> Response:
        if name not in paths:
            raise UnknownPathError("nothing answers at this path")
        return FileResponse(paths[name])

    return router

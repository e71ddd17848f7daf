"""`/healthz`, `/readyz` and `/metrics`: for whoever runs the server."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server.api.documentation import errors
from server.errors import ModelNotReadyError
from server.observe.merged import AllMetrics
from server.service import Service


def routes(service: Service, all_metrics: AllMetrics) -> APIRouter:
    """Return the routes that say how the server is."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """Say that the process answers. Never touches a model."""
        return {"alive": True}

    @router.get("/readyz", responses=errors(503, public=True))
    async def readyz() -> dict[str, bool]:
        """Say whether every model has run once and the worker is alive."""
        if not service.is_ready:
            raise ModelNotReadyError("not ready: starting, stopping, or the worker has died")
        return {"ready": True}  # and not which models: anybody may ask

    @router.get("/metrics", response_class=Response, responses=errors())
    async def metrics() -> Response:
        """Return all metrics, of all processes together, in Prometheus's text format."""
        return Response(await all_metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router

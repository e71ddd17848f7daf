"""The Open Inference Protocol (KServe v2) over REST, with Triton's binary tensors.

`server/api/kserve/inference.py` says what may be asked, `server/api/kserve/signature.py` with
which tensors. Any content type will do: clients of this protocol name several, and some none.
"""

from __future__ import annotations

import asyncio
from functools import partial
from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from server.api.answer import unless_gone
from server.api.body import parse, read_body
from server.api.compression import compressed, wanted
from server.api.documentation import Spelling, errors, inlined, request_docs
from server.api.json_size import check_json
from server.api.kserve.body import (
    HEADER_LENGTH,
    InferenceBody,
    StrictBody,
    json_part,
    read_inference,
    spelled,
)
from server.api.kserve.inference import Inference
from server.api.kserve.signature import configuration, metadata
from server.api.options import options_of
from server.clients.caller import caller_of
from server.errors import ModelNotReadyError, OverloadedError, RheostatError

SERVER: dict[str, str | list[str]] = {
    "name": "rheostat",
    "version": version_of("rheostat"),
    "extensions": [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "parameters",
        "schedule_policy",
    ],
}


class IndexBody(StrictBody):
    """The JSON of a request for the repository's index."""

    ready: bool = Field(default=False, description="Leave out models that are not ready.")


class KServeError(BaseModel):
    """Body of every error."""

    error: str


def form(error: RheostatError, _request_id: str) -> Response:
    """Spell an error as this protocol does: a sentence.

    What is wrong with a request is 400 to its clients, and overload of the server 503.
    """
    is_overload = type(error) is OverloadedError  # a client's own quota stays 429
    status = 503 if is_overload else {415: 400, 422: 400}.get(error.status, error.status)
    return JSONResponse({"error": error.message}, status, headers=dict(error.headers))


FORMS = {"/v2": form, "/v2/": form}
_errors = partial(errors, by=(Spelling(form, KServeError),))


def routes(inference: Inference) -> APIRouter:
    """Return the routes of this protocol."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    service = inference.service

    def check_ready() -> None:
        # 503 as in KServe, not 400 as in Triton: the caller is not at fault and may try again.
        if not service.is_ready:
            raise ModelNotReadyError("not ready: starting, stopping, or the worker has died")

    @router.get("", responses=_errors())
    async def server() -> dict[str, str | list[str]]:
        """Say which server this is and which extensions of the protocol it has."""
        return SERVER

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Say that the process answers. Never touches a model."""
        return {"live": True}

    @router.get("/health/ready", responses=_errors(503, public=True))
    async def ready() -> dict[str, bool]:
        """Say whether every model has run once and the worker is alive."""
        check_ready()
        return {"ready": True}

    @router.post("/repository/index", responses=_errors(400, 413))
    async def index(request: Request) -> list[dict[str, str]]:
        """List the models."""
        body = await read_body(request)
        await check_json(body)
        wants_ready = parse(IndexBody, body).ready if body else False
        state = "READY" if service.is_ready else "UNAVAILABLE"
        return [
            {"name": name, "version": served.manifest.version, "state": state, "reason": ""}
            for name, served in service.models_of(caller_of(request)).items()
            if service.is_ready or not wants_ready
        ]

    async def describe(request: Request, model: str, version: str = "") -> dict[str, Any]:
        """Describe the tensors of a model."""
        return metadata(inference.find(caller_of(request), model, version))

    async def model_ready(request: Request, model: str, version: str = "") -> dict[str, str | bool]:
        """Say whether a model can answer."""
        served = inference.find(caller_of(request), model, version)
        check_ready()
        return {"name": served.name, "ready": True}

    async def configure(request: Request, model: str, version: str = "") -> dict[str, Any]:
        """Describe a model in the fields of Triton's model configuration."""
        served = inference.find(caller_of(request), model, version)
        return configuration(served, inference.max_inputs(served))

    async def infer(request: Request, model: str, version: str = "") -> Response:
        """Run the best subnet that the budget allows, for the outputs asked for."""
        with service.metrics.request() as tally:
            body = await read_body(request)
            served = inference.find(caller_of(request), model, version)
            tally.model = served.name
            length = request.headers.get(HEADER_LENGTH)
            await check_json(json_part(body, length))
            parsed = read_inference(served, body, length)
            running = inference.run(
                served, parsed.inference_request, options_of(request), caller_of(request)
            )
            replied = await unless_gone(request, running)
        content, headers = spelled(served, parsed, replied)
        if liked := wanted(request.headers.get("accept-encoding", ""), len(content)):
            content = await asyncio.to_thread(compressed, content, liked)
            headers["Content-Encoding"] = liked
        return Response(content, headers={**headers, **replied.headers})

    unknown, failed = _errors(404), _errors(400, 404, 413, 429, 504)
    body = request_docs(json=inlined(InferenceBody))
    for path in ("/models/{model:path}/versions/{version}", "/models/{model:path}"):
        add = partial(router.add_api_route, include_in_schema="version" not in path)
        add(f"{path}/config", configure, responses=unknown)
        add(f"{path}/ready", model_ready, responses=unknown)
        add(f"{path}/infer", infer, methods=["POST"], openapi_extra=body, responses=failed)
        add(path, describe, responses=unknown)  # last: a name may have slashes
    return router

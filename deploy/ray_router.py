"""What stands in front of the models: the server's own paths, whichever replica answers.

A request goes to the model that it names: in its path, in the JSON body's ``model``, or in the part
``request`` of a form. One that names none goes to the only model that takes such inputs. What
cannot be read goes to a model as well, which says what is wrong with it in its protocol's form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.exchange import Answered, Asked
from deploy.ray_settings import RaySettings
from models.inputs.signature import Signature
from server.api.compression import Decompression
from server.api.json_size import check_json
from server.app import FORMS
from server.catalog import meant
from server.errors import (
    ClientError,
    ConflictError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    UnknownModelError,
    shown,
)
from server.http.cors import cors
from server.http.forms import Forms
from server.http.forms import install as install_forms
from server.http.middleware import BodyLimit, RequestId
from server.http.paths import HeadMethod
from server.http.scopes import model_in

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_LISTS = {"/v1/models": "data", "/v1/checkpoints": "checkpoints"}
_RETRY = {"Retry-After": "1", "retry-after-ms": "200"}  # another replica may answer at once


class _Router:
    def __init__(
        self,
        settings: RaySettings,
        inputs: Mapping[str, Signature],
        handles: Mapping[str, DeploymentHandle[Any]],
    ) -> None:
        self._inputs = inputs
        self._handles = handles
        self._aliases = settings.names
        self._defaults = [self._named(name) for name in settings.defaults]
        self._timeout_s = settings.request_timeout_s

    async def forward(self, request: Request) -> Response:
        """Let one replica of the model that is meant answer."""
        asked = await Asked.of(request)
        name = answered = None
        with suppress(ClientError):
            name = await self._meant(request, asked, self._inputs)
            answered = await self._one(name, asked)
        if answered is not None and answered.status != 404:
            return answered.response()
        # Perhaps for this client there is not every model, and only models know keys.
        listed = await self._each(replace(asked, method="GET", path="/v1/models", body=b""))
        denied = next((one for one in listed if one.status != 200), None)
        own = [entry["id"] for one in listed for entry in orjson.loads(one.body).get("data", ())]
        if answered is not None and (denied or name in own):
            return answered.response()
        if denied:
            return denied.response()
        inputs = {name: takes for name, takes in self._inputs.items() if name in own}
        return (await self._one(await self._meant(request, asked, inputs), asked)).response()

    async def listed(self, request: Request) -> Response:
        """Put together what each model lists."""
        asked = await Asked.of(request)
        answers = await self._each(asked)
        if failed := next((one for one in answers if one.status != 200), None):
            return failed.response()
        key = _LISTS[asked.path]
        documents = [orjson.loads(one.body) for one in answers]
        entries = [entry for document in documents for entry in document[key]]
        merged = orjson.dumps({**documents[0], key: entries})
        return Response(merged, media_type="application/json")

    async def ready(self, request: Request) -> dict[str, bool]:
        """Say whether a replica of every model is ready."""
        answers = await self._each(await Asked.of(request))
        if any(one.status != 200 for one in answers):
            raise ModelNotReadyError("not ready: a model is starting, stopping, or has failed")
        return {"ready": True}

    async def metrics(self, request: Request) -> Response:
        """Return the metrics of all replicas, told apart by the label ``replica``."""
        asked = await Asked.of(request)
        found = [one for name in self._handles for one in await self._all(name, asked)]
        if failed := next((one for one in found if one.status != 200), None):
            return failed.response()
        return Response(generate_latest(_Merged(found)), media_type=CONTENT_TYPE_LATEST)

    async def reload(self, model: str, request: Request) -> Response:
        """Let every replica of a model read its checkpoint again."""
        asked = await Asked.of(request)
        answers = await self._all(self._known(model, self._handles), asked)
        return max(answers, key=lambda one: one.status).response()

    async def _meant(self, request: Request, asked: Asked, inputs: Mapping[str, Signature]) -> str:
        """Return which of some models a request means; `inputs` says what they take."""
        if len(self._handles) == 1:
            return next(iter(self._handles))  # which refuses other names itself
        if (model := model_in(asked.path)) is not None:
            return self._known(model, inputs)
        body = await _document(request, asked)
        kind, names = _takes(asked.path, body)
        fit = [name for name, own in inputs.items() if own.fits(kind, names)]
        match body:
            case {"model": str(name)}:
                return self._known(name, inputs)
            case dict() if body.get("model") is None and inputs:
                return meant(fit or list(inputs), self._defaults)
        return next(iter(fit or self._inputs))

    def _named(self, name: str) -> str:
        return self._aliases.get(name, name)

    def _known(self, name: str, names: Collection[str]) -> str:
        if (own := self._named(name)) not in names:
            found = [*names, *(alias for alias, one in self._aliases.items() if one in names)]
            raise UnknownModelError(f"model={shown(name)} is not served; one of {found}", "model")
        return own

    async def _one(self, name: str, asked: Asked) -> Answered:
        called = self._handles[name].answer.remote
        answered: Answered = await self._awaited(name, lambda: called(asked))
        return answered

    async def _all(self, name: str, asked: Asked) -> list[Answered]:
        called = self._handles[name].broadcast("answer", asked)
        answers = list(await self._awaited(name, lambda: called.results_async()))
        if not answers:
            raise _again(f"{name} has no replica now")
        return answers

    async def _each(self, asked: Asked) -> list[Answered]:
        return list(await asyncio.gather(*(self._one(name, asked) for name in self._handles)))

    async def _awaited(self, name: str, call: Callable[[], Any]) -> Any:
        """Wait for replicas, and say what became of them in the server's own errors."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call()
        except TimeoutError:
            # Most likely there is none: Ray lets requests wait for the next one.
            within = f"within {self._timeout_s:g} s (request_timeout_s)"
            raise _again(f"no replica of {name} answered {within}") from None
        except BackPressureError:
            raise OverloadedError(f"too many requests wait for {name}", 1.0) from None
        except (RayActorError, DeploymentUnavailableError):
            raise _again(f"the replica of {name} that had this request has ended") from None


def router_app(
    settings: RaySettings,
    inputs: Mapping[str, Signature],
    handles: Mapping[str, DeploymentHandle[Any]],
) -> FastAPI:
    """Return the application that stands in front of the models.

    Args:
        settings: Of the server.
        inputs: What each model takes, by name.
        handles: Of the models' deployments, by name.
    """
    router = _Router(settings, inputs, handles)
    app = FastAPI(title="Rheostat", openapi_url=None, redirect_slashes=False)

    async def healthz() -> dict[str, bool]:
        return {"alive": True}

    async def deployed(model: str) -> None:
        raise ConflictError(f"model={shown(model)}: on Ray, deploying decides what is served")

    for path in _LISTS:
        app.add_api_route(path, router.listed, methods=["GET"])
    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", router.ready, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", router.metrics, methods=["GET"])
    app.add_api_route("/v1/models/{model:path}/reload", router.reload, methods=["POST"])
    for change in ("load", "unload"):
        app.add_api_route(f"/v1/models/{{model:path}}/{change}", deployed, methods=["POST"])
    app.add_api_route("/{path:path}", router.forward, methods=_METHODS)
    forms = Forms(FORMS)
    install_forms(app, forms)
    # A model has to be found in bodies, so they go on as they were before compression.
    app.add_middleware(Decompression, max_bytes=settings.max_body_bytes)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(HeadMethod)
    app.add_middleware(RequestId, forms=forms)
    if settings.origins:
        app.add_middleware(CORSMiddleware, **cors(settings.origins))
    app.add_middleware(_WithoutId)
    return app


def _again(message: str) -> ModelNotReadyError:
    error = ModelNotReadyError(message)
    error.headers = _RETRY
    return error


async def _document(request: Request, asked: Asked) -> Any:
    """Return what a body says beside its files; None if it cannot be read."""
    try:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with request.form() as form:
                part = form.get("request", "{}")
                text = part.encode() if isinstance(part, str) else await part.read()
        else:
            text = asked.body
        await check_json(text)
        return orjson.loads(text)
    except (orjson.JSONDecodeError, HTTPException, InvalidRequestError):
        return None


def _takes(path: str, body: Any) -> tuple[str | None, Collection[str] | None]:
    """Return the kind of input, or the names of inputs, of a request that names no model."""
    if path == "/v1/infer" and isinstance(body, dict) and body.get("inputs") is not None:
        first = body["inputs"][0] if isinstance(body["inputs"], list) else body["inputs"]
        return None, first if isinstance(first, dict) else None
    is_plan = path == "/v1/plan" and not (isinstance(body, dict) and body.get("tokens") is not None)
    return ("image" if path == "/v1/infer" or is_plan else "text"), None


class _WithoutId:
    """Takes the request's id off responses: Ray's proxy, which has made it, sends it as well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_without)


class _Merged:
    """The metrics of several processes as one registry."""

    def __init__(self, answers: Iterable[Answered]) -> None:
        self._answers = answers

    def collect(self) -> Iterable[Metric]:
        """Return one family for each name."""
        merged: dict[str, Metric] = {}
        for one in self._answers:
            for family in text_string_to_metric_families(one.body.decode()):
                own = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                own.samples += [
                    sample._replace(labels={**sample.labels, "replica": one.replica})
                    for sample in family.samples
                ]
        return merged.values()

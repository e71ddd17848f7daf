"""`POST /v1/infer` and `POST /v1/plan`: Rheostat's own protocol."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from models.core import Shapes
from models.inputs import InvalidInputError
from server.admitted import Answer
from server.api.answer import (
    JsonObject,
    Written,
    plan_receipt,
    receipt_headers,
    receipt_of,
    unless_gone,
)
from server.api.body import Parsed, field_of, read_infer, read_json
from server.api.documentation import FORM_SCHEMA, errors, inlined, request_docs
from server.api.options import options_of
from server.api.outputs import to_json, to_picture
from server.api.rheostat.items import items_of
from server.api.rheostat.schema import (
    FullPlanBody,
    InferAnswer,
    InferBody,
    PlanAnswer,
    PlanBody,
)
from server.catalog import Catalog
from server.choose import Question
from server.clients.caller import caller_of
from server.errors import InvalidRequestError
from server.inputs.sources import Sources
from server.served import Served
from server.service import Service

_PNG = "image/png"
_INFER_DOCS = request_docs(json=inlined(InferBody), form=FORM_SCHEMA)
_PLAN_DOCS = request_docs(json=inlined(FullPlanBody))


def routes(service: Service, max_images: int, max_texts: int) -> APIRouter:
    """Return the routes of this protocol.

    Args:
        service: Answers.
        max_images: Most items in one request, for models whose inputs have no length.
        max_texts: The same for others.
    """
    router = APIRouter(prefix="/v1", tags=["inference"])

    @router.post(
        "/infer",
        response_model=InferAnswer,
        openapi_extra=_INFER_DOCS,
        responses=errors(404, 413, 415, 422, 429, 504),
    )
    async def infer(request: Request) -> Response:
        """Run the best subnet that the budget allows, and say what was done.

        With `Accept: image/png`, one item and one task that gives a map, the answer is a picture.
        """
        with service.metrics.request() as tally:
            parsed = await read_infer(request, max_images)
            models = service.models_of(caller_of(request))
            served, items = _asked(models, parsed, max_images, max_texts)
            tally.model = served.name
            answer = await unless_gone(
                request, service.infer(served, _question(served, parsed.body, request), items)
            )
        if field_of(request, b"accept") == _PNG:
            picture = await asyncio.to_thread(_picture, served, answer)
            headers = receipt_headers(served, answer.selection)
            return Response(picture, media_type=_PNG, headers=headers)
        outputs = await _outputs(served, answer)
        return Written({"outputs": outputs, "receipt": receipt_of(served, answer)})

    @router.post(
        "/plan",
        response_model=PlanAnswer,
        openapi_extra=_PLAN_DOCS,
        responses=errors(404, 413, 415, 422),
    )
    async def plan(request: Request) -> Written:
        """Say which subnet `/v1/infer` would run, without running it."""
        body = await read_json(request, FullPlanBody)
        takes = "image" if body.tokens is None else "text"
        served = service.models_of(caller_of(request)).choose(body.model, takes)
        shapes = _plan_shapes(served, body.tokens)
        question = _question(served, body, request)
        selection = service.select(served, question, shapes)
        adapters = service.adapters(served, question)
        return Written({"receipt": plan_receipt(served, selection, adapters)})

    return router


def _asked(
    models: Catalog, parsed: Parsed, max_images: int, max_texts: int
) -> tuple[Served, list[Sources]]:
    """Return the model that a request asks, and its items."""
    body, uploads, given = parsed
    if given is None:
        served = models.choose(body.model, "image")
        return served, [*served.named("image", uploads)]
    served = models.choose(body.model, names=given if isinstance(given, dict) else given[0])
    limit = (max_images, "max_images")
    if served.inputs.has_length:
        limit = (max_texts, "max_texts")
    return served, items_of(served, given, *limit)


def _plan_shapes(served: Served, num_tokens: int | None) -> Shapes:
    try:
        return served.inputs.plan_shapes(num_tokens)
    except InvalidInputError as error:
        raise InvalidRequestError(str(error), "tokens") from None


def _question(served: Served, body: PlanBody, request: Request) -> Question:
    return options_of(request).question(
        caller_of(request),
        body.budget,
        tasks=body.tasks,
        preferences=body.preferences,
        fixed=served.whole_outputs,
        priority=body.priority,
        side=body.side,
        adapter=body.adapter,
    )


async def _outputs(served: Served, answer: Answer) -> list[dict[str, JsonObject]]:
    tasks = served.elastic.tasks

    def written() -> list[dict[str, JsonObject]]:
        return [
            {name: to_json(tasks[name], value) for name, value in item.items()}
            for item in answer.outputs
        ]

    # Pictures take a while; other answers less than to wake a thread.
    if not served.maps.isdisjoint(answer.outputs[0]):
        return await asyncio.to_thread(written)
    return written()


def _picture(served: Served, answer: Answer) -> bytes:
    """Return the one answer as a PNG file; InvalidRequestError if there are several or none."""
    if len(answer.outputs) != 1 or len(answer.outputs[0]) != 1:
        raise InvalidRequestError(f"accept={_PNG} needs one item and one task", "tasks")
    ((name, value),) = answer.outputs[0].items()
    return to_picture(served.elastic.tasks[name], value)

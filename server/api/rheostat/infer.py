"""`POST /v1/infer` and `POST /v1/plan`: Rheostat's own protocol."""

from __future__ import annotations

from fastapi import APIRouter, Request
from torch import Tensor

from models.core import Shape
from models.inputs import InvalidInputError
from models.inputs.image import ImageInput
from models.inputs.text import TextInput
from server.api.answer import plan_receipt, receipt_of, unless_gone
from server.api.body import read_infer, read_json
from server.api.documentation import FORM_SCHEMA, errors, inlined, request_docs
from server.api.options import options_of
from server.api.rheostat.schema import (
    FullPlanBody,
    InferAnswer,
    InferBody,
    PlanAnswer,
    PlanBody,
    TaskOutput,
)
from server.catalog import Served
from server.choose import Question
from server.clients.caller import caller_of
from server.errors import InvalidRequestError
from server.service import Answer, Service

_INFER_DOCS = request_docs(json=inlined(InferBody), form=FORM_SCHEMA)
_PLAN_DOCS = request_docs(json=inlined(FullPlanBody))


def routes(service: Service, max_images: int) -> APIRouter:
    """Return the routes of this protocol.

    Args:
        service: Answers.
        max_images: Most images in one request.
    """
    router = APIRouter(prefix="/v1", tags=["inference"])

    @router.post(
        "/infer",
        openapi_extra=_INFER_DOCS,
        responses=errors(404, 413, 415, 422, 429, 504),
    )
    async def infer(request: Request) -> InferAnswer:
        """Run the best subnet that the budget allows, and say what was done."""
        with service.metrics.request() as tally:
            body, uploads = await read_infer(request, max_images)
            served = service.models_of(caller_of(request)).choose(body.model, ImageInput)
            tally.model = served.name
            answer = await unless_gone(
                request, service.infer(served, _question(body, request), uploads)
            )
        return InferAnswer(outputs=_outputs(served, answer), receipt=receipt_of(served, answer))

    @router.post("/plan", openapi_extra=_PLAN_DOCS, responses=errors(404, 413, 415, 422))
    async def plan(request: Request) -> PlanAnswer:
        """Say which subnet `/v1/infer` would run, without running it."""
        body = await read_json(request, FullPlanBody)
        takes = ImageInput if body.tokens is None else TextInput
        served = service.models_of(caller_of(request)).choose(body.model, takes)
        shape = _plan_shape(served, body.tokens)
        selection = service.select(served, _question(body, request), shape)
        return PlanAnswer(receipt=plan_receipt(served, selection))

    return router


def _plan_shape(served: Served, num_tokens: int | None) -> Shape:
    try:
        return served.input.plan_shape(num_tokens)
    except InvalidInputError as error:
        raise InvalidRequestError(str(error), "tokens") from None


def _question(body: PlanBody, request: Request) -> Question:
    return options_of(request).question(
        caller_of(request),
        body.budget,
        tasks=body.tasks,
        preferences=body.preferences,
        priority=body.priority,
    )


def _outputs(served: Served, answer: Answer) -> list[dict[str, TaskOutput]]:
    labels = {name: task.labels for name, task in served.elastic.tasks.items()}
    return [
        {task: _output(labels[task], logits) for task, logits in image.items()}
        for image in answer.outputs
    ]


def _output(labels: tuple[str, ...], logits: Tensor) -> TaskOutput:
    by_label = dict(zip(labels, logits.float().softmax(-1).tolist(), strict=True))
    return TaskOutput(label=max(by_label, key=by_label.__getitem__), probabilities=by_label)

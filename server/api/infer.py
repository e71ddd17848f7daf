"""`POST /v1/infer` and `POST /v1/plan`: Rheostat's own protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request

from search.find import Selection
from server.api.body import read_infer, read_plan
from server.api.schema import (
    FORM_SCHEMA,
    InferAnswer,
    InferBody,
    Milliseconds,
    PlanAnswer,
    PlanBody,
    PlanReceipt,
    Receipt,
    TaskOutput,
    TaskReceipt,
    errors,
    inlined,
    request_docs,
)
from server.catalog import Served
from server.errors import ClientGoneError
from server.service import Answer, Question, Service

T = TypeVar("T")

_INFER_DOCS = request_docs(json=inlined(InferBody), form=FORM_SCHEMA)
_PLAN_DOCS = request_docs(json=inlined(PlanBody))


def routes(service: Service, max_images: int) -> APIRouter:
    """Return the routes of this protocol.

    Args:
        service: Answers.
        max_images: Most images in one request.
    """
    router = APIRouter(prefix="/v1", tags=["inference"])

    @router.post(
        "/infer", openapi_extra=_INFER_DOCS, responses=errors(404, 413, 415, 422, 429, 500, 503)
    )
    async def infer(request: Request) -> InferAnswer:
        """Run the best subnet that the budget allows, and say what was done."""
        with service.metrics.request() as tally:
            body, uploads = await read_infer(request, max_images)
            served = service.catalog.choose(body.model)
            tally.model = served.name
            answer = await _unless_gone(request, service.infer(served, _question(body), uploads))
        return InferAnswer(outputs=_outputs(served, answer), receipt=_receipt(served, answer))

    @router.post("/plan", openapi_extra=_PLAN_DOCS, responses=errors(404, 413, 415, 422))
    async def plan(request: Request) -> PlanAnswer:
        """Say which subnet `/v1/infer` would run, without running it."""
        body = await read_plan(request)
        served = service.catalog.choose(body.model)
        selection = service.select(served, _question(body))
        return PlanAnswer(receipt=PlanReceipt(**_chosen(served, selection)))

    return router


def _question(body: PlanBody) -> Question:
    return Question(body.tasks, body.preferences, body.limits())


def _outputs(served: Served, answer: Answer) -> list[dict[str, TaskOutput]]:
    labels = {name: task.labels for name, task in served.elastic.tasks.items()}
    return [
        {task: _output(labels[task], probabilities) for task, probabilities in image.items()}
        for image in answer.probabilities
    ]


def _output(labels: tuple[str, ...], probabilities: list[float]) -> TaskOutput:
    by_label = dict(zip(labels, probabilities, strict=True))
    return TaskOutput(label=max(by_label, key=by_label.__getitem__), probabilities=by_label)


def _receipt(served: Served, answer: Answer) -> Receipt:
    milliseconds = {stage.value: 1000 * seconds for stage, seconds in answer.seconds.items()}
    return Receipt(
        **_chosen(served, answer.selection),
        total_flops=answer.selection.cost.flops * len(answer.probabilities),
        backend=answer.backend,
        batch_sizes=answer.batch_sizes,
        milliseconds=Milliseconds(**milliseconds),
    )


def _chosen(served: Served, selection: Selection) -> dict[str, Any]:
    tasks = {
        name: TaskReceipt(
            metric=served.elastic.tasks[name].metric,
            score=score.value,
            retention=score.retention,
            n=score.n,
            stderr=score.stderr,
            measured=score.measured,
        )
        for name, score in selection.scores.items()
    }
    return {
        "model": served.name,
        "version": served.manifest.version,
        "subnet": dict(selection.subnet),
        "macs": selection.cost.macs,
        "flops": selection.cost.flops,
        "fraction": selection.fraction,
        "quality": selection.quality,
        "gap": selection.gap,
        "preferences": dict(selection.preferences),
        "tasks": tasks,
    }


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await the work, but cancel it once the client has closed the connection.

    Raises:
        ClientGoneError: If it has.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError("the client closed the connection")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        # Until both have ended: a cancelled request has then left the queue.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

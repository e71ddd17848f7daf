"""TEI's `/predict`: classes of texts, or of pairs of texts, most likely first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from fastapi import APIRouter, Request, Response
from torch import Tensor

from models.tasks import Task
from server.api.answer import receipt_headers, unless_gone
from server.api.body import check_count, read_json
from server.api.documentation import errors, inlined, request_docs
from server.api.options import options_of
from server.api.tei.form import TEI, check_any
from server.api.tei.routes import timing_headers
from server.api.tei.schema import PredictBody, Prediction
from server.clients.caller import caller_of
from server.errors import InvalidRequestError
from server.inputs.sources import Passage
from server.served import Served
from server.service import Service

_STATUSES = (400, 404, 413, 415, 422, 424, 429, 504)
_Row: TypeAlias = tuple[str, list[str]]
ONE_LABEL = "LABEL_0"  # what transformers calls the one output of a model that scores


def routes(service: Service, max_texts: int) -> APIRouter:
    """Return the route.

    Args:
        service: Answers.
        max_texts: Most texts, or pairs of texts, in one request.
    """
    router = APIRouter(tags=["TEI"])

    @router.post(
        "/predict",
        openapi_extra=request_docs(json=inlined(PredictBody)),
        responses=partial(errors, by=[TEI])(*_STATUSES),
    )
    async def predict(
        request: Request, response: Response
    ) -> list[Prediction] | list[list[Prediction]]:
        """Classify texts with the best subnet that the budget allows."""
        with service.metrics.request() as tally:
            body = await read_json(request, PredictBody)
            served = service.models_of(caller_of(request)).choose(
                body.model, "text", gives=("classes", "score")
            )
            tally.model = served.name
            check_any(request, "inputs", body.inputs)
            rows, is_batch = _rows(body.inputs)
            check_count("inputs", len(rows), max_texts, "max_texts")
            items = [_item(served, body, field, row) for field, row in rows]
            question = options_of(request).question(
                caller_of(request), body.budget, priority=body.priority, adapter=body.adapter
            )
            answer = await unless_gone(request, service.infer(served, question, items))
        name, task = next(
            (name, task)
            for name, task in served.elastic.tasks.items()
            if task.kind in ("classes", "score")
        )
        found = [predictions(task, outputs[name], body.raw_scores) for outputs in answer.outputs]
        response.headers.update(receipt_headers(served, answer.selection))
        texts = [source for item in items for source in item.values()]
        response.headers.update(
            timing_headers(answer.seconds, answer.backend, texts, sum(answer.num_tokens))
        )
        return found if is_batch else found[0]

    return router


def predictions(task: Task, logits: Tensor, raw: bool) -> list[Prediction]:
    """Return the classes of one input, most likely first; of a score its one label.

    Args:
        task: Of classes, or of a score.
        logits: Shape [labels], or a number.
        raw: Whether scores are the logits.
    """
    if task.kind == "score":
        scores = (logits if raw else logits.sigmoid()).reshape(1)
    else:
        scores = logits if raw else logits.softmax(0)
    labels = task.labels or (ONE_LABEL,)
    order = scores.argsort(descending=True, stable=True).tolist()
    return [Prediction(score=float(scores[i]), label=labels[i]) for i in order]


def _rows(inputs: str | Sequence[str] | Sequence[Sequence[str]]) -> tuple[list[_Row], bool]:
    """Return each text or pair with its field, and whether there may be several."""
    if isinstance(inputs, str):
        return [("inputs", [inputs])], False
    if isinstance(inputs[0], str):
        return [("inputs", [str(text) for text in inputs])], False
    return [(f"inputs[{i}]", list(row)) for i, row in enumerate(inputs)], True


def _item(served: Served, body: PredictBody, field: str, row: Sequence[str]) -> dict[str, Passage]:
    """Return an item; InvalidRequestError if the model compares two texts and there is one."""
    names = served.pair or (served.inputs.name_for("text"),)
    if len(row) != len(names):
        wanted = "a pair of texts" if served.pair else "one text"
        raise InvalidRequestError(
            f"{field} has {len(row)} texts; {served.name} takes {wanted}", field
        )
    return {
        name: Passage(field, text, truncate=body.side)
        for name, text in zip(names, row, strict=True)
    }

"""`POST /v1/classify`: classes named by texts, without a head of their own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from server.api.adapters import Adapter
from server.api.answer import Written, receipt_headers, receipt_of, unless_gone
from server.api.body import check_count, read_json
from server.api.documentation import errors, inlined, request_docs
from server.api.options import options_of
from server.api.request_body import RequestBody
from server.api.rheostat.schema import BudgetBody, Name, Priority, Receipt
from server.api.rheostat.text_schema import Preferences, Text, Texts, Truncate, Usage
from server.api.texts import passages
from server.classify import Classification, LabelVectors, classify
from server.clients.caller import caller_of
from server.errors import InvalidRequestError
from server.inputs.sources import Passage
from server.service import Service

PATH = "/v1/classify"
_MAX_PAIRS = 32_768  # of an input and a label: all of them are compared, and most are answered
_STATUSES = (404, 413, 415, 422, 429, 504)


class ClassifyBody(RequestBody):
    """Texts, and the texts that name classes."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {
                    "input": ["My card has not arrived yet."],
                    "labels": ["a question about a delivery", "a question about exchange rates"],
                    "budget": {"fraction": 0.5},
                }
            ]
        },
    )

    model: Name | None = Field(
        default=None, description="May be left out where one model takes texts."
    )
    input: Texts
    labels: Annotated[list[Text], Field(min_length=2, fail_fast=True)] = Field(
        description="Texts that name or describe the classes, each once. Their vectors are kept. "
        f"Inputs times labels are at most {_MAX_PAIRS}."
    )
    top_k: int | None = Field(
        default=None, gt=0, strict=True, description="Return only so many labels; default: all."
    )
    budget: BudgetBody | None = Field(default=None, description="For each input; labels are whole.")
    preferences: Preferences = None
    adapter: Adapter = None
    priority: Priority = None
    prompt: Name | None = Field(default=None, description="Template for inputs.")
    label_prompt: Name | None = Field(default=None, description="Template for labels.")
    truncate: Truncate = None


class NearLabel(BaseModel):
    """A label and how near it is."""

    label: str
    index: int = Field(description="Of the label in the request.")
    score: float = Field(description="Cosine with the input, -1..1.")


class ClassifiedInput(BaseModel):
    """One input."""

    index: int
    labels: list[NearLabel] = Field(description="The nearest first.")


class ClassifyReceipt(Receipt):
    """The receipt of the inputs, and what labels took."""

    label_flops: int = Field(description="Spent on labels; 0 where all vectors were kept.")
    labels_kept: int = Field(description="Labels whose vectors were kept from before.")


class ClassifyAnswer(BaseModel):
    """Answer of `/v1/classify`."""

    model: str
    data: list[ClassifiedInput]
    usage: Usage
    receipt: ClassifyReceipt


def routes(service: Service, max_texts: int, max_label_bytes: int) -> APIRouter:
    """Return the route.

    Args:
        service: Answers.
        max_texts: Most inputs in one request, and most labels.
        max_label_bytes: What vectors of labels may hold.
    """
    router = APIRouter(tags=["inference"])
    kept = LabelVectors(max_label_bytes)

    @router.post(
        PATH,
        response_model=ClassifyAnswer,
        openapi_extra=request_docs(json=inlined(ClassifyBody)),
        responses=errors(*_STATUSES),
    )
    async def classify_texts(request: Request) -> Written:
        """Put labels in order of their nearness to each input, by the best subnet in the budget."""
        with service.metrics.request() as tally:
            body = await read_json(request, ClassifyBody)
            caller = caller_of(request)
            served = service.models_of(caller).choose(body.model, "text", gives=("embedding",))
            tally.model = served.name
            inputs = passages("input", body.input, max_texts, body.prompt, body.truncate)
            labels = _labels(body, max_texts)
            _check_pairs(len(inputs), len(labels))
            question = options_of(request).question(
                caller,
                body.budget,
                preferences=body.preferences,
                fixed=served.whole_outputs,
                priority=body.priority,
                adapter=body.adapter,
            )
            found = await unless_gone(
                request, classify(service, kept, served, question, inputs, labels)
            )
        num_tokens = sum(found.answer.num_tokens)
        receipt = receipt_of(served, found.answer)
        receipt |= {"label_flops": found.label_flops, "labels_kept": found.num_kept}
        content = {
            "model": served.name,
            "data": _data(body, found),
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            "receipt": receipt,
        }
        return Written(content, receipt_headers(served, found.answer.selection))

    return router


def _labels(body: ClassifyBody, max_texts: int) -> list[Passage]:
    check_count("labels", len(body.labels), max_texts, "max_texts")
    first: dict[str, int] = {}
    for i, label in enumerate(body.labels):
        if (other := first.setdefault(label, i)) != i:
            raise InvalidRequestError(
                f"labels[{i}] is labels[{other}] again; each must be there once", f"labels[{i}]"
            )
    return [
        Passage(f"labels[{i}]", label, body.label_prompt, body.truncate)
        for i, label in enumerate(body.labels)
    ]


def _check_pairs(num_inputs: int, num_labels: int) -> None:
    if num_inputs * num_labels > _MAX_PAIRS:
        raise InvalidRequestError(
            f"labels: {num_labels} of them for each of {num_inputs} inputs are "
            f"{num_inputs * num_labels} pairs; at most {_MAX_PAIRS} are allowed in one request",
            "labels",
        )


def _data(body: ClassifyBody, found: Classification) -> list[dict[str, object]]:
    most = min(body.top_k or len(body.labels), len(body.labels))
    scores, places = found.cosines.sort(dim=1, descending=True, stable=True)
    return [
        {
            "index": number,
            "labels": [
                {"label": body.labels[i], "index": i, "score": score}
                for score, i in zip(own_scores, own, strict=True)
            ],
        }
        for number, (own_scores, own) in enumerate(
            zip(scores[:, :most].tolist(), places[:, :most].tolist(), strict=True)
        )
    ]

"""`POST /v1/classify`: classes named by texts, without a head of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from server.api.answer import Written, receipt_headers, receipt_of, unless_gone
from server.api.body import check_count, read_json
from server.api.documentation import errors, inlined, request_docs
from server.api.options import options_of
from server.api.request_body import RequestBody
from server.api.rheostat.schema import BudgetBody, Name, Priority, Receipt
from server.api.rheostat.text_schema import Preferences, Text, Texts, Truncate, Usage
from server.api.texts import passages
from server.classify import Classification, LabelVectors, classify, classify_stored
from server.clients.caller import caller_of
from server.errors import InvalidRequestError
from server.inputs.sources import Passage
from server.observe.metrics import Tally
from server.served import Served
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
    labels: Annotated[list[Text], Field(min_length=2, fail_fast=True)] | None = Field(
        default=None,
        description="Texts that name or describe the classes, each once. Their vectors are kept. "
        f"Inputs times labels are at most {_MAX_PAIRS}. Instead of `index`.",
    )
    index: Name | None = Field(
        default=None,
        description="An index whose documents describe the classes and whose ids name them. "
        "Instead of `labels`, `model` and `label_prompt`.",
    )
    top_k: int | None = Field(
        default=None, gt=0, strict=True, description="Return only so many labels; default: all."
    )
    budget: BudgetBody | None = Field(default=None, description="For each input; labels are whole.")
    preferences: Preferences = None
    priority: Priority = None
    prompt: Name | None = Field(default=None, description="Template for inputs.")
    label_prompt: Name | None = Field(default=None, description="Template for labels.")
    truncate: Truncate = None

    @model_validator(mode="after")
    def _one_kind_of_labels(self) -> Self:
        if (self.labels is None) == (self.index is None):
            raise ValueError("either labels or index must be given")
        for name in ("model", "label_prompt"):
            if self.index is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} must be left out where index is given, which has its own")
        return self


class NearLabel(BaseModel):
    """A label and how near it is."""

    label: str = Field(description="Of the request, or the id of the index's document.")
    index: int = Field(description="Of the label in the request or in the index.")
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
            served, names, found = await _classify(service, kept, request, body, tally, max_texts)
        num_tokens = sum(found.answer.num_tokens)
        receipt = receipt_of(served, found.answer)
        receipt |= {"label_flops": found.label_flops, "labels_kept": found.num_kept}
        content = {
            "model": served.name,
            "data": _data(names, found, body.top_k),
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            "receipt": receipt,
        }
        return Written(content, receipt_headers(served, found.answer.selection))

    return router


async def _classify(
    service: Service,
    kept: LabelVectors,
    request: Request,
    body: ClassifyBody,
    tally: Tally,
    max_texts: int,
) -> tuple[Served, Sequence[str], Classification]:
    """Return the model, the labels' names, and how near they are to each input."""
    caller = caller_of(request)
    models = service.models_of(caller)
    index = None if body.index is None else await service.indexes.get(caller.client, body.index)
    wanted = body.model if index is None else index.model
    served = models.choose(wanted, "text", gives=("embedding",))
    tally.model = served.name
    inputs = passages("input", body.input, max_texts, body.prompt, body.truncate)
    question = options_of(request).question(
        caller,
        body.budget,
        preferences=body.preferences,
        fixed=served.whole_outputs,
        priority=body.priority,
    )
    if index is not None:
        _check_pairs(len(inputs), len(index), "index")
        stored = classify_stored(service, served, question, inputs, index)
        return served, index.ids, await unless_gone(request, stored)
    assert body.labels is not None, "the body has one of both"
    labels = _labels(body, body.labels, max_texts)
    _check_pairs(len(inputs), len(labels), "labels")
    asked = classify(service, kept, served, question, inputs, labels)
    return served, body.labels, await unless_gone(request, asked)


def _labels(body: ClassifyBody, labels: Sequence[str], max_texts: int) -> list[Passage]:
    check_count("labels", len(labels), max_texts, "max_texts")
    first: dict[str, int] = {}
    for i, label in enumerate(labels):
        if (other := first.setdefault(label, i)) != i:
            raise InvalidRequestError(
                f"labels[{i}] is labels[{other}] again; each must be there once", f"labels[{i}]"
            )
    return [
        Passage(f"labels[{i}]", label, body.label_prompt, body.truncate)
        for i, label in enumerate(labels)
    ]


def _check_pairs(num_inputs: int, num_labels: int, field: str) -> None:
    if num_inputs * num_labels > _MAX_PAIRS:
        raise InvalidRequestError(
            f"{field}: {num_labels} labels for each of {num_inputs} inputs are "
            f"{num_inputs * num_labels} pairs; at most {_MAX_PAIRS} are allowed in one request",
            field,
        )


def _data(
    labels: Sequence[str], found: Classification, top_k: int | None
) -> list[dict[str, object]]:
    most = min(top_k or len(labels), len(labels))
    scores, places = found.cosines.sort(dim=1, descending=True, stable=True)
    return [
        {
            "index": number,
            "labels": [
                {"label": labels[i], "index": i, "score": score}
                for score, i in zip(own_scores, own, strict=True)
            ],
        }
        for number, (own_scores, own) in enumerate(
            zip(scores[:, :most].tolist(), places[:, :most].tolist(), strict=True)
        )
    ]

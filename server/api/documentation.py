"""What the OpenAPI document says beyond signatures: bodies read by hand, and every error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from server.api.rheostat.schema import ErrorAnswer, PlanBody
from server.errors import (
    AuthenticationError,
    ClientGoneError,
    ConflictError,
    DatabaseError,
    DeadlineError,
    HeadTooLargeError,
    InfeasibleError,
    InferenceError,
    InvalidRequestError,
    MalformedRequestError,
    MethodNotAllowedError,
    ModelLoadError,
    OverloadedError,
    PayloadTooLargeError,
    PermissionDeniedError,
    QuotaExceededError,
    RequestTimeoutError,
    RheostatError,
    UnknownClientError,
    UnknownIndexError,
    UnknownKeyError,
    UnknownModelError,
    UnknownPathError,
    UnsupportedMediaError,
    not_running,
)
from server.http.forms import Form, own_form

_REQUEST_ID = "8f14e45fceea467aa3a1b2f4c1f0a9d2"
_FRAMEWORKS = ("content-length", "content-type")

# One of each class of the tree.
SAMPLES: tuple[RheostatError, ...] = (
    InvalidRequestError(
        "budget.fraction=1.2 must be less than or equal to 1",
        "budget.fraction",
    ),
    InfeasibleError(
        "budget.flops=1000 is too small: the cheapest subnet needs 6615040",
        "budget.flops",
        6615040,
    ),
    UnsupportedMediaError("content-type='text/plain' must be application/json"),
    PayloadTooLargeError("the body exceeds 20971520 bytes (max_body_bytes)"),
    RequestTimeoutError.of("body", 30),
    MalformedRequestError("this is not HTTP/1.1: Invalid character in chunk size"),
    HeadTooLargeError("the trailer has more than 100 fields (max_head_fields)"),
    AuthenticationError("the key is not known"),
    PermissionDeniedError("the key has not the scope admin, only infer"),
    UnknownModelError("model='huge' is not served; one of ['minilm-2d']", "model"),
    UnknownClientError("client='huge' is not stored", "client"),
    UnknownKeyError("key='4d7a' is not stored", "key"),
    UnknownIndexError("index='faq' does not exist", "index"),
    UnknownPathError("nothing answers at this path"),
    MethodNotAllowedError("this path answers other methods"),
    ConflictError("model='minilm-2d' is being loaded"),
    ModelLoadError("minilm-2d holds no checkpoint"),
    ClientGoneError("the client closed the connection"),
    OverloadedError(
        "the inputs being served will take about 2.41 s; above 2 s no more are let in", 1.41
    ),
    QuotaExceededError("60 requests a minute are allowed", "requests_per_minute", 12.0),
    DeadlineError("the deadline passed before the request's turn came; nothing was run for it"),
    not_running(),
    DatabaseError("the database of clients and keys cannot be used"),
    InferenceError("the model failed on this input; the server's log has the reason"),
    RheostatError("internal error; the server's log has it under the request id"),
)

# What every path may answer that is not public: the key, a bug, a server that starts or stops.
_EVERYWHERE = (401, 403, 500, 503)


@dataclass(frozen=True, slots=True)
class Spelling:
    """One protocol's errors.

    Attributes:
        form: Makes the response.
        model: Of its body.
    """

    form: Form
    model: type[BaseModel]


OWN = Spelling(own_form, ErrorAnswer)


def errors(
    *statuses: int, by: Sequence[Spelling] = (OWN,), public: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of error responses, with an example of each error there is.

    Args:
        statuses: As the protocols have them, beside those that every path may have.
        by: The protocols that answer at the path, that of its key first.
        public: Whether anybody may ask, without a key.
    """
    found = {*(() if public else _EVERYWHERE), *statuses}
    if 413 in found:
        found |= {400, 408, 431}  # a body that may be too large may be too slow, or no HTTP
    return {
        status: _documented(status, by[:1] if status in (401, 403) else by)
        for status in sorted(found)
    }


def _documented(status: int, by: Sequence[Spelling]) -> dict[str, Any]:
    docs = _examples(status, by)
    if "content" in docs or status not in _EVERYWHERE:
        docs["model"] = reduce(or_, (one.model for one in by))
    return docs


def _examples(status: int, by: Sequence[Spelling]) -> dict[str, Any]:
    examples, headers = {}, {}
    for name, response in _responses(by):
        if response.status_code != status:
            continue
        if response.body:
            examples[name] = {"value": json.loads(bytes(response.body))}
        for header, value in response.headers.items():
            if header not in _FRAMEWORKS:
                headers[header] = {"schema": {"type": "string"}, "example": value}
    docs: dict[str, Any] = {}
    if examples:
        docs["content"] = {"application/json": {"examples": examples}}
    if headers:
        docs["headers"] = headers
    return docs


def _responses(by: Sequence[Spelling]) -> Iterator[tuple[str, Response]]:
    for one in by:
        for error in SAMPLES:
            name = error.error_type if len(by) == 1 else f"{one.model.__name__} {error.error_type}"
            yield name, one.form(error, _REQUEST_ID)


def request_docs(**by_content_type: dict[str, Any]) -> dict[str, Any]:
    """Return the documentation of a body read by hand; ``json`` and ``form`` name the types."""
    types = {"json": "application/json", "form": "multipart/form-data"}
    content = {types[kind]: {"schema": schema} for kind, schema in by_content_type.items()}
    return {"requestBody": {"required": True, "content": content}}


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON Schema without references, to be put anywhere in a document."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolve(definitions[node["$ref"].rpartition("/")[2]])
        return {key: resolve(value) for key, value in node.items()}

    resolved: dict[str, Any] = resolve(schema)
    return resolved


FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "One or many files: PNG, JPEG or WebP.",
        },
        "request": {**inlined(PlanBody), "description": "JSON: everything but the images."},
    },
}

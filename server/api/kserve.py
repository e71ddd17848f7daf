"""The Open Inference Protocol (KServe v2) over REST, with Triton's binary tensors.

`server/api/kserve_inference.py` says what may be asked, `server/api/kserve_signature.py` with
which tensors. Any content type will do: clients of this protocol name several, and some none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version as version_of
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from server.api.answer import unless_gone
from server.api.body import parse, read_body
from server.api.compression import compressed, decompressed
from server.api.documentation import Spelling, errors, inlined, request_docs
from server.api.kserve_inference import Asked, Inference, Replied
from server.api.kserve_signature import configuration, inputs_of, metadata
from server.api.kserve_tensors import Given, Output
from server.api.schema import Name
from server.caller import caller_of
from server.catalog import Served
from server.errors import (
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    RheostatError,
    shown,
)

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
_HEADER_LENGTH = "Inference-Header-Content-Length"
_MAX_DIGITS = 18
_MAX_TENSORS = 1000  # more than any model has; keeps messages short
_MAX_DIMENSIONS = 8


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class InputParameters(_Body):
    """Of an input tensor."""

    binary_data_size: int | None = Field(
        default=None, ge=0, description="Bytes of this tensor behind the JSON."
    )


class InputTensor(_Body):
    """An input tensor, its data here or behind the JSON."""

    name: Name
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=_MAX_DIMENSIONS)
    datatype: Name
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(default=None, description="Nested or flat, row-major.")


class OutputParameters(_Body):
    """Of an output tensor."""

    binary_data: bool | None = Field(
        default=None, description="Default: `binary_data_output` of the request."
    )
    classification: int | None = Field(
        default=None, gt=0, description="So many best classes instead of logits."
    )


class OutputTensor(_Body):
    """An output tensor that is wanted."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferenceBody(_Body):
    """The JSON of a request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a text"]}
                    ],
                    "parameters": {"budget_fraction": 0.5},
                }
            ]
        }
    )

    id: str | None = Field(default=None, max_length=1000, description="Sent back.")
    parameters: dict[Name, Any] = Field(
        default={}, description="Budget, preferences, timeout, priority: see the README."
    )
    inputs: Annotated[list[InputTensor], Field(fail_fast=True)] = Field(
        min_length=1, max_length=_MAX_TENSORS
    )
    outputs: Annotated[list[OutputTensor], Field(fail_fast=True)] = Field(
        default=[], max_length=_MAX_TENSORS, description="Only these are run; default: all."
    )


class IndexBody(_Body):
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


def routes(inference: Inference, max_body_bytes: int) -> APIRouter:
    """Return the routes of this protocol.

    Args:
        inference: Answers.
        max_body_bytes: Most that a compressed body may become.
    """
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
        wants_ready = parse(IndexBody, body).ready if body else False
        state = "READY" if service.is_ready else "UNAVAILABLE"
        return [
            {"name": name, "version": served.manifest.version, "state": state, "reason": ""}
            for name, served in service.catalog.items()
            if service.is_ready or not wants_ready
        ]

    async def describe(model: str, version: str = "") -> dict[str, Any]:
        """Describe the tensors of a model."""
        return metadata(inference.find(model, version))

    async def model_ready(model: str, version: str = "") -> dict[str, str | bool]:
        """Say whether a model can answer."""
        served = inference.find(model, version)
        check_ready()
        return {"name": served.name, "ready": True}

    async def configure(model: str, version: str = "") -> dict[str, Any]:
        """Describe a model in the fields of Triton's model configuration."""
        served = inference.find(model, version)
        return configuration(served, inference.max_inputs(served))

    async def infer(request: Request, model: str, version: str = "") -> Response:
        """Run the best subnet that the budget allows, for the outputs asked for."""
        with service.metrics.request() as tally:
            body = await read_body(request)
            encoding = request.headers.get("content-encoding", "")
            # On threads: megabytes of zeros are made from kilobytes.
            body = await asyncio.to_thread(decompressed, body, encoding, max_body_bytes)
            served = inference.find(model, version)
            tally.model = served.name
            fields, inputs = _read(served, body, request.headers.get(_HEADER_LENGTH))
            asked = Asked(
                {k: v for k, v in fields.parameters.items() if k != "binary_data_output"},
                inputs,
                _wanted(fields),
            )
            are_binary = _binary_outputs(fields)
            replied = await unless_gone(
                request, inference.run(served, asked, request.headers, caller_of(request))
            )
        content, headers = _spelled(served, fields.id, replied, are_binary)
        accepted = request.headers.get("accept-encoding", "")
        content, encoded = await asyncio.to_thread(compressed, content, accepted)
        if encoded is not None:
            headers["Content-Encoding"] = encoded
        return Response(content, headers={**headers, **replied.headers})

    unknown, failed = _errors(404), _errors(400, 404, 413, 429, 504)
    body = request_docs(json=inlined(InferenceBody))
    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        add = partial(router.add_api_route, include_in_schema="version" not in path)
        add(path, describe, responses=unknown)
        add(f"{path}/config", configure, responses=unknown)
        add(f"{path}/ready", model_ready, responses=unknown)
        add(f"{path}/infer", infer, methods=["POST"], openapi_extra=body, responses=failed)
    return router


def _read(
    served: Served, body: bytes, header_length: str | None
) -> tuple[InferenceBody, list[Given]]:
    """Return the JSON of a request and its tensors, which stand in it or behind it.

    Args:
        served: The model asked for.
        body: Of the request.
        header_length: How many bytes of it are JSON; None for all. With 0 all of it is the one
            element of the model's first input.

    Raises:
        InvalidRequestError: If that is no number, or the tensors do not add up to the body.
    """
    if header_length is None:
        fields, behind = parse(InferenceBody, body), None
    elif (length := _length(header_length, len(body))) == 0:
        spec = next(iter(inputs_of(served).values()))
        only = Given("the body", spec.name, spec.datatype, [1], [body])
        return InferenceBody.model_construct(id=None, parameters={}, inputs=[], outputs=[]), [only]
    else:
        fields, behind = parse(InferenceBody, body[:length], "the JSON"), memoryview(body)[length:]
    inputs = []
    for i, tensor in enumerate(fields.inputs):
        field, content = f"inputs[{i}]", tensor.data
        size = tensor.parameters.binary_data_size
        if (content is None) == (size is None):
            raise InvalidRequestError(
                f"{field} must have data or parameters.binary_data_size, and not both", field
            )
        raw: memoryview | list[Any] = content or []
        if size is not None:
            if behind is None or size > len(behind):
                left = f"{len(behind)} are left" if behind is not None else f"no {_HEADER_LENGTH}"
                raise InvalidRequestError(
                    f"{field}.parameters.binary_data_size={size}: {left}",
                    f"{field}.parameters.binary_data_size",
                )
            raw, behind = behind[:size], behind[size:]
        inputs.append(Given(field, tensor.name, tensor.datatype, tensor.shape, raw))
    if behind:
        raise InvalidRequestError(f"the body has {len(behind)} bytes behind its last tensor")
    return fields, inputs


def _length(text: str, num_bytes: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    if not is_number or int(text) > num_bytes:
        raise InvalidRequestError(
            f"header {_HEADER_LENGTH}={shown(text)} must be 0 to {num_bytes}, the body's length"
        )
    return int(text)


def _wanted(fields: InferenceBody) -> dict[str, int | None]:
    wanted = {output.name: output.parameters.classification for output in fields.outputs}
    if len(wanted) != len(fields.outputs):
        raise InvalidRequestError("outputs names one twice", "outputs")
    return wanted


def _binary_outputs(fields: InferenceBody) -> Mapping[str | None, bool]:
    """Return which outputs go behind the JSON; None stands for those not listed."""
    otherwise = fields.parameters.get("binary_data_output", False)
    if not isinstance(otherwise, bool):
        raise InvalidRequestError(
            f"parameters.binary_data_output={shown(otherwise)} must be true or false",
            "parameters.binary_data_output",
        )
    given = {output.name: output.parameters.binary_data for output in fields.outputs}
    return {None: otherwise, **{k: otherwise if v is None else v for k, v in given.items()}}


def _spelled(
    served: Served, request_id: str | None, replied: Replied, are_binary: Mapping[str | None, bool]
) -> tuple[bytes, dict[str, str]]:
    """Return the body of an answer and the headers that say what it is."""
    tensors, behind = [], []
    for output in replied.outputs:
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape,
        }
        if are_binary.get(output.name, are_binary[None]):
            behind.append(output.raw())
            tensor["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            tensor["data"] = _listed(output)
        tensors.append(tensor)
    answer = {
        "model_name": served.name,
        "model_version": served.manifest.version,
        **({} if request_id is None else {"id": request_id}),
        "parameters": replied.parameters,
        "outputs": tensors,
    }
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not behind:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(text))}
    return b"".join([text, *behind]), headers


def _listed(output: Output) -> Any:
    if isinstance(output.values, list):
        return [value.decode() for value in output.values]
    return output.values.reshape(-1)

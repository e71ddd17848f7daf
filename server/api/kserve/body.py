"""The body of an inference over REST: JSON, and behind it tensors as raw bytes.

The header ``Inference-Header-Content-Length`` says where the JSON ends. Without it all is JSON; if
it is 0, all is the one element of the model's first input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import ConfigDict, Field

from server.api.body import parse
from server.api.kserve.inference import InferenceReply, InferenceRequest
from server.api.kserve.signature import forms_of
from server.api.kserve.tensors import MAX_INT, GivenTensor, Output
from server.api.request_body import RequestBody
from server.api.rheostat.schema import Name
from server.errors import InvalidRequestError, shown
from server.served import Served

HEADER_LENGTH = "Inference-Header-Content-Length"
_BINARY_OUTPUT = "binary_data_output"
_MAX_DIGITS = 18
_MAX_TENSORS = 1000  # more than any model has; keeps messages short
_MAX_DIMENSIONS = 8


class StrictBody(RequestBody):
    """No unknown field, no text or true for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class InputParameters(StrictBody):
    """Of an input tensor."""

    binary_data_size: int | None = Field(
        default=None, ge=0, le=MAX_INT, description="Bytes of this tensor behind the JSON."
    )


class InputTensor(StrictBody):
    """An input tensor, its data here or behind the JSON."""

    name: Name
    shape: list[Annotated[int, Field(ge=0, le=MAX_INT)]] = Field(max_length=_MAX_DIMENSIONS)
    datatype: Name
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(default=None, description="Nested or flat, row-major.")


class OutputParameters(StrictBody):
    """Of an output tensor."""

    binary_data: bool | None = Field(
        default=None, description="Default: `binary_data_output` of the request."
    )
    classification: int | None = Field(
        default=None, gt=0, le=MAX_INT, description="So many best classes instead of logits."
    )


class OutputTensor(StrictBody):
    """An output tensor that is wanted."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class InferenceBody(StrictBody):
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
        default={}, description="Budget, preferences, timeout, priority: see the page Protocols."
    )
    inputs: Annotated[list[InputTensor], Field(fail_fast=True)] = Field(
        min_length=1, max_length=_MAX_TENSORS
    )
    outputs: Annotated[list[OutputTensor], Field(fail_fast=True)] = Field(
        default=[], max_length=_MAX_TENSORS, description="Only these are run; default: all."
    )


class ParsedInference(NamedTuple):
    """An inference as it came.

    Attributes:
        id: To be sent back; None if there is none.
        inference_request: Its content.
        are_binary: Which outputs go behind the JSON, by name; None stands for those not listed.
    """

    id: str | None
    inference_request: InferenceRequest
    are_binary: Mapping[str | None, bool]


def json_part(body: bytes, header_length: str | None) -> bytes:
    """Return the JSON of a body; InvalidRequestError if the header is no length."""
    return body if header_length is None else body[: _length(header_length, len(body))]


def read_inference(served: Served, body: bytes, header_length: str | None) -> ParsedInference:
    """Read a body.

    Args:
        served: The model asked for.
        body: Of the request.
        header_length: Value of the header; None if it was not sent.

    Raises:
        InvalidRequestError: If the header is no length, the JSON not the protocol's, or the tensors
            do not add up to the body.
    """
    if header_length is None:
        fields, behind = parse(InferenceBody, body), None
    elif (length := _length(header_length, len(body))) == 0:
        spec = next(iter(forms_of(served).values())).spec
        only = GivenTensor("the body", spec.name, spec.datatype, [1], [body])
        return ParsedInference(None, InferenceRequest({}, [only], {}), {None: False})
    else:
        fields, behind = parse(InferenceBody, body[:length], "the JSON"), memoryview(body)[length:]
    parameters = {name: v for name, v in fields.parameters.items() if name != _BINARY_OUTPUT}
    inference_request = InferenceRequest(parameters, _tensors(fields, behind), _wanted(fields))
    return ParsedInference(fields.id, inference_request, _binary_outputs(fields))


def _tensors(fields: InferenceBody, behind: memoryview | None) -> list[GivenTensor]:
    """Return the input tensors, which stand in the JSON or behind it; None if nothing may."""
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
                left = f"{len(behind)} are left" if behind is not None else f"no {HEADER_LENGTH}"
                raise InvalidRequestError(
                    f"{field}.parameters.binary_data_size={size}: {left}",
                    f"{field}.parameters.binary_data_size",
                )
            raw, behind = behind[:size], behind[size:]
        inputs.append(GivenTensor(field, tensor.name, tensor.datatype, tensor.shape, raw))
    if behind:
        raise InvalidRequestError(f"the body has {len(behind)} bytes behind its last tensor")
    return inputs


def _length(text: str, num_bytes: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    if not is_number or int(text) > num_bytes:
        raise InvalidRequestError(
            f"header {HEADER_LENGTH}={shown(text)} must be 0 to {num_bytes}, the body's length"
        )
    return int(text)


def _wanted(fields: InferenceBody) -> dict[str, int | None]:
    wanted = {output.name: output.parameters.classification for output in fields.outputs}
    if len(wanted) != len(fields.outputs):
        raise InvalidRequestError("outputs names one twice", "outputs")
    return wanted


def _binary_outputs(fields: InferenceBody) -> Mapping[str | None, bool]:
    otherwise = fields.parameters.get(_BINARY_OUTPUT)
    otherwise = False if otherwise is None else otherwise
    if not isinstance(otherwise, bool):
        raise InvalidRequestError(
            f"parameters.binary_data_output={shown(otherwise)} must be true or false",
            "parameters.binary_data_output",
        )
    given = {output.name: output.parameters.binary_data for output in fields.outputs}
    return {None: otherwise, **{k: otherwise if v is None else v for k, v in given.items()}}


def spelled(
    served: Served, request: ParsedInference, replied: InferenceReply
) -> tuple[bytes, dict[str, str]]:
    """Return the body of an answer and the headers that say what it is."""
    tensors, behind = [], []
    for output in replied.outputs:
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape,
        }
        if request.are_binary.get(output.name, request.are_binary[None]):
            behind.append(output.raw())
            tensor["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            tensor["data"] = _listed(output)
        tensors.append(tensor)
    answer = {
        "model_name": served.name,
        "model_version": served.manifest.version,
        **({} if request.id is None else {"id": request.id}),
        "parameters": replied.parameters,
        "outputs": tensors,
    }
    text = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not behind:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return b"".join([text, *behind]), headers


def _listed(output: Output) -> Any:
    if isinstance(output.values, list):
        return [value.decode() for value in output.values]
    return output.values.reshape(-1)

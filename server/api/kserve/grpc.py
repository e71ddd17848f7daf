"""The Open Inference Protocol (KServe v2) over gRPC, in the event loop of the HTTP server.

The deadline of a call is its ``timeout``, and a call that its client cancels leaves the queue.
Budgets may also stand in metadata, spelled as the headers of REST.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import grpc

from server.api.kserve.grpc_calls import Answer, Call, Calls
from server.api.kserve.inference import Inference, InferenceReply, InferenceRequest, Parameter
from server.api.kserve.messages import SERVICE, calls, message
from server.api.kserve.rest import SERVER
from server.api.kserve.signature import metadata
from server.api.kserve.tensors import GivenTensor
from server.errors import InvalidRequestError, shown
from server.http.addresses import only_ipv4
from server.settings import SettingsError

_PROBES = ("ServerLive", "ServerReady")
_RUNS = "ModelInfer"
_CONTENTS = {
    "BYTES": "bytes_contents",
    "UINT8": "uint_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
}


class GrpcServer:
    """Listens while it is entered as a context."""

    def __init__(
        self,
        inference: Inference,
        passing: Calls,
        host: str,
        port: int,
        max_bytes: int,
        max_calls: int,
        grace_s: float,
    ) -> None:
        """Prepare to listen; nothing is opened yet.

        Args:
            inference: Answers.
            passing: What every call passes.
            host: To listen on.
            port: 0 for any that is free.
            max_bytes: Most of one message, as in REST of a body.
            max_calls: Most at once; further ones get RESOURCE_EXHAUSTED.
            grace_s: For those under way when it is left.
        """
        self._inference = inference
        self._passing = passing
        self._host = host
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._options = [
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port that is taken is an error, not shared
        ]
        self._max_calls = max_calls
        self._grace_s = grace_s
        self._server: grpc.aio.Server
        self._keeping = ExitStack()
        self.port = port

    async def __aenter__(self) -> Self:
        """Listen. On the event loop that runs inferences.

        Raises:
            SettingsError: If the address cannot be had.
        """
        self._server = grpc.aio.server(
            options=self._options, maximum_concurrent_rpcs=self._max_calls
        )
        answers: dict[str, Answer] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._passing.handler(
                    f"{SERVICE}/{name}", answers[name], name in _PROBES, name == _RUNS
                ),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, (request, response) in calls().items()
        }
        generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        if keeper := only_ipv4(self._host, self.port):
            self._keeping.enter_context(keeper)
        try:
            self.port = self._server.add_insecure_port(self._address)
        except RuntimeError:
            self._keeping.close()
            raise SettingsError(f"grpc_port: cannot listen on {self._address}") from None
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse new calls and finish those under way."""
        await self._server.stop(self._grace_s)
        self._keeping.close()

    async def _server_live(self, _request: Any, _call: Call) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _server_ready(self, _request: Any, _call: Call) -> Any:
        return message("ServerReadyResponse")(ready=self._inference.service.is_ready)

    async def _model_ready(self, request: Any, call: Call) -> Any:
        self._inference.find(call.caller, request.name, request.version)
        return message("ModelReadyResponse")(ready=self._inference.service.is_ready)

    async def _server_metadata(self, _request: Any, _call: Call) -> Any:
        return message("ServerMetadataResponse")(**SERVER)

    async def _model_metadata(self, request: Any, call: Call) -> Any:
        served = self._inference.find(call.caller, request.name, request.version)
        return message("ModelMetadataResponse")(**metadata(served))

    async def _model_infer(self, request: Any, call: Call) -> Any:
        with self._inference.service.metrics.request() as tally:
            served = self._inference.find(call.caller, request.model_name, request.model_version)
            tally.model = served.name
            replied = await self._inference.run(
                served, _inference_request(request), call.options, call.caller, call.left_s
            )
        response = message("ModelInferResponse")(
            model_name=served.name,
            model_version=served.manifest.version,
            id=request.id,
            parameters={k: _spelled(value) for k, value in replied.parameters.items()},
        )
        _add_outputs(response, replied, is_raw=bool(request.raw_input_contents))
        return response


def _inference_request(request: Any) -> InferenceRequest:
    raw, tensors = request.raw_input_contents, request.inputs
    if raw and len(raw) != len(tensors):
        raise InvalidRequestError(
            f"raw_input_contents has {len(raw)} entries and inputs {len(tensors)}",
            "raw_input_contents",
        )
    inputs = []
    for i, tensor in enumerate(tensors):
        field = f"inputs[{i}]"
        if raw and tensor.HasField("contents"):
            raise InvalidRequestError(f"{field} has contents beside raw_input_contents", field)
        _no_parameters(field, tensor.parameters)
        contents = _CONTENTS.get(tensor.datatype)
        listed = getattr(tensor.contents, contents) if contents else ()
        content = memoryview(raw[i]) if raw else listed
        inputs.append(GivenTensor(field, tensor.name, tensor.datatype, list(tensor.shape), content))
    outputs = {}
    for i, output in enumerate(request.outputs):
        if output.name in outputs:
            raise InvalidRequestError("outputs names one twice", "outputs")
        outputs[output.name] = _num_classes(f"outputs[{i}]", output.parameters)
    return InferenceRequest(_read(request.parameters), inputs, outputs)


def _read(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as values; one that has none is None, as null is in JSON."""
    return {
        name: None
        if (kind := value.WhichOneof("parameter_choice")) is None
        else getattr(value, kind)
        for name, value in parameters.items()
    }


def _num_classes(field: str, parameters: Mapping[str, Any]) -> int | None:
    given = _read(parameters)
    num_classes = given.pop("classification", None)
    _no_parameters(field, given)
    if num_classes is None:
        return None
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise InvalidRequestError(
            f"{field}.parameters.classification={shown(num_classes)} must be a number above 0",
            field,
        )
    return num_classes


def _no_parameters(field: str, given: Mapping[str, Any]) -> None:
    if given:
        raise InvalidRequestError(
            f"{field}.parameters has {shown(next(iter(given)))}, which is not known", field
        )


def _spelled(value: Parameter) -> Any:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    return message("InferParameter")(**{kinds[type(value)]: value})


def _add_outputs(response: Any, replied: InferenceReply, is_raw: bool) -> None:
    """Put the outputs into a response, in the spelling that the request's inputs had."""
    for output in replied.outputs:
        tensor = response.outputs.add(
            name=output.name, datatype=output.datatype, shape=output.shape
        )
        if is_raw:
            response.raw_output_contents.append(output.raw())
        else:
            values = output.values if isinstance(output.values, list) else output.values.ravel()
            getattr(tensor.contents, _CONTENTS[output.datatype]).extend(values)

"""A gRPC server around the engine on a free port, and a plain client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from models.backends.torch import TorchBackend
from server.api.kserve import messages
from server.api.kserve.grpc import GrpcServer
from server.api.kserve.grpc_calls import Calls, Identify
from server.api.kserve.inference import Inference
from server.clients.caller import ANYONE, Caller
from server.inputs.decoder import Decoder
from server.served import Served
from server.service import Service
from tests.server.api.kserve.samples import IMAGES, pixels
from tests.server.around import service_around
from tests.server.backends import HeldBackend

MAX_BYTES = 200_000
MAX_QUEUE = 3


class Client:
    """A plain channel, without a client library's ideas."""

    def __init__(self, channel: Any, service: Service, address: str) -> None:
        self._channel = channel
        self.service = service
        self.address = address

    def call(self, name: str, request: Any = None, **options: Any) -> Any:
        """Return a call under way."""
        takes, gives = messages.calls()[name]
        method = self._channel.unary_unary(
            f"/{messages.SERVICE}/{name}",
            request_serializer=takes.SerializeToString,
            response_deserializer=gives.FromString,
        )
        return method(takes() if request is None else request, **options)

    async def refused(self, code: str, request: Any = None, **options: Any) -> Any:
        """Return the error of an inference, which has this code."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call("ModelInfer", request or asked(), **options)
        assert caught.value.code().name == code, caught.value.details()
        return caught.value


def identified(caller: Caller = ANYONE) -> Identify:
    """Return what takes everybody for one caller."""

    async def identify(_: object) -> Caller:
        return caller

    return identify


_anyone = identified()


@asynccontextmanager
async def running(
    served: Served, decoder: Decoder, backend: TorchBackend, identify: Identify = _anyone
) -> AsyncIterator[Client]:
    """A server on a free port, and a client of it."""
    async with service_around(served, decoder, backend, 8, MAX_QUEUE) as (service, _):
        server = GrpcServer(
            Inference(service, 2, 2), Calls(identify), "127.0.0.1", 0, MAX_BYTES, 16, 1.0
        )
        async with server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Client(channel, service, f"127.0.0.1:{server.port}")


@asynccontextmanager
async def held(client: Client, backend: HeldBackend) -> AsyncIterator[None]:
    """Let one inference hold the engine; at the end of the block it is answered."""
    backend.hold()
    first = asyncio.ensure_future(client.call("ModelInfer", asked()))
    await backend.until_held()
    try:
        yield
    finally:
        backend.release()
        await first


def asked(num_images: int = 1, **parameters: Any) -> Any:
    """Return a request with raw pixels."""
    raw = np.stack([pixels(IMAGES[0])] * num_images)
    request = messages.message("ModelInferRequest")(model_name="tiny")
    request.inputs.add(name="rgb", datatype="UINT8", shape=raw.shape)
    request.raw_input_contents.append(raw.tobytes())
    for name, value in parameters.items():
        kind = {int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def trailing(ended: Any) -> Mapping[str, str]:
    """Return the trailing metadata of a call or of its error."""
    return dict(ended.trailing_metadata() or ())

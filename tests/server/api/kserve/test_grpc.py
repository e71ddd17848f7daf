"""The Open Inference Protocol over gRPC: calls that are held, refused, cancelled or late."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.backends.torch import TorchBackend
from server.api.kserve.inference import Inference
from server.clients.caller import Caller
from server.clients.profile import ClientProfile
from server.errors import AuthenticationError, PermissionDeniedError
from server.inputs.decoder import Decoder
from server.served import Served
from server.settings import SettingsError
from tests.server.api.kserve.samples import IMAGES, pixels
from tests.server.around import until
from tests.server.backends import FailingBackend, HeldBackend
from tests.server.samples import run

pytest.importorskip("grpc", reason="needs the extra grpc")

import grpc

from server.api.kserve import messages
from server.api.kserve.grpc import GrpcServer
from server.api.kserve.grpc_calls import Calls
from tests.server.api.kserve.grpc_server import (
    MAX_BYTES,
    MAX_QUEUE,
    asked,
    held,
    identified,
    running,
    trailing,
)


def test_answers_come_in_the_spelling_of_the_request(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            raw = await client.call("ModelInfer", asked())
            request = asked()
            del request.raw_input_contents[:]
            flat = pixels(IMAGES[0]).ravel().tolist()
            request.inputs[0].contents.uint_contents.extend(flat)
            typed = await client.call("ModelInfer", request)
        assert [output.name for output in typed.outputs] == ["fish", "flowers", "people"]
        assert len(raw.raw_output_contents) == 3
        assert not typed.raw_output_contents
        for output, content in zip(typed.outputs, raw.raw_output_contents, strict=True):
            found = np.array(output.contents.fp32_contents)
            np.testing.assert_allclose(found, np.frombuffer(content, "<f4"), atol=1e-5)
            assert output.shape == [1, len(found)]
        assert typed.parameters["flops"].int64_param > 0
        assert 0 < typed.parameters["fraction"].double_param <= 1
        assert typed.parameters["slimmed"].WhichOneof("parameter_choice") == "bool_param"
        assert "encoder.stage1=" in typed.parameters["subnet"].string_param

    run(scenario())


def test_a_server_that_is_not_ready_is_alive_and_says_so(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            model = messages.message("ModelReadyRequest")(name="tiny")
            assert (await client.call("ServerLive")).live
            assert not (await client.call("ServerReady")).ready
            assert not (await client.call("ModelReady", model)).ready
            await client.service.warm_up()
            assert (await client.call("ServerReady")).ready
            assert (await client.call("ModelReady", model)).ready

    run(scenario())


def test_each_kind_of_error_has_its_code(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        backend = FailingBackend()
        async with running(served, decoder, backend) as client:
            unknown = messages.message("ModelInferRequest")(model_name="huge")
            assert "is not served" in (await client.refused("NOT_FOUND", unknown)).details()
            wrong = asked(budget_watts=3)
            details = (await client.refused("INVALID_ARGUMENT", wrong)).details()
            assert "budget_watts is not a field" in details
            small = asked(budget_macs=1)
            error = await client.refused("INVALID_ARGUMENT", small)
            assert "the cheapest subnet needs" in error.details()
            assert trailing(error)["x-should-retry"] == "false"
            await client.refused("DEADLINE_EXCEEDED", asked(timeout=1))
            many = await client.refused("INVALID_ARGUMENT", asked(3))
            assert "at most 2 (max_images)" in many.details()
            backend.error = ValueError("secret")
            failed = await client.refused("INTERNAL")
            assert "secret" not in failed.details()

    run(scenario())


def test_a_full_server_reads_no_tensor(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        backend = HeldBackend()
        async with running(served, decoder, backend) as client:
            wrong = asked()
            del wrong.raw_input_contents[:]
            wrong.inputs[0].contents.uint_contents.extend([300] * (16 * 16 * 3))
            backend.hold()
            calls = [client.call("ModelInfer", asked()) for _ in range(MAX_QUEUE)]
            await until(lambda: b"rheostat_queue_depth 3.0" in client.service.metrics.text())
            await client.refused("RESOURCE_EXHAUSTED", wrong)
            backend.release()
            await asyncio.gather(*calls)
            error = await client.refused("INVALID_ARGUMENT", wrong)
            assert "inputs[0] holds 300, which is no UINT8" in error.details()

    run(scenario())


def test_a_full_server_says_when_to_come_back(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        backend = HeldBackend()
        async with running(served, decoder, backend) as client:
            backend.hold()
            first = client.call("ModelInfer", asked(2))
            await backend.until_held()
            error = await client.refused("RESOURCE_EXHAUSTED", asked(2))
            assert int(trailing(error)["grpc-retry-pushback-ms"]) > 0
            assert int(trailing(error)["retry-after"]) > 0
            backend.release()
            assert (await first).model_name == "tiny"

    run(scenario())


def test_a_cancelled_call_leaves_the_queue(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        backend = HeldBackend()
        async with running(served, decoder, backend) as client, held(client, backend):
            second = client.call("ModelInfer", asked())
            await until(lambda: b"rheostat_queue_depth 2.0" in client.service.metrics.text())
            second.cancel()
            await until(lambda: b"rheostat_queue_depth 1.0" in client.service.metrics.text())
            assert b'outcome="cancelled"} 1.0' in client.service.metrics.text()

    run(scenario())


def test_the_deadline_of_a_call_is_the_requests(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        backend = HeldBackend()
        async with running(served, decoder, backend) as client, held(client, backend):
            await client.refused("DEADLINE_EXCEEDED", asked(), timeout=0.2)
            await until(lambda: b"rheostat_queue_depth 1.0" in client.service.metrics.text())

    run(scenario())


def test_health_is_public_and_everything_else_asks_who_calls(
    served: Served, decoder: Decoder
) -> None:
    seen: list[str] = []

    async def identify(metadata: Mapping[str, str]) -> Caller:
        key = metadata.get("authorization", "")
        if not key:
            raise AuthenticationError("a key is needed")
        if key != "Bearer good":
            raise PermissionDeniedError("the key has another scope")
        seen.append(key)
        return Caller("someone")

    async def scenario() -> None:
        async with running(served, decoder, TorchBackend(), identify) as client:
            assert (await client.call("ServerLive")).live
            await client.call("ServerReady")
            await client.refused("UNAUTHENTICATED")
            with pytest.raises(grpc.aio.AioRpcError, match="a key is needed"):
                await client.call("ServerMetadata")
            await client.refused("PERMISSION_DENIED", metadata=(("authorization", "Bearer bad"),))
            await client.call("ModelInfer", asked(), metadata=(("authorization", "Bearer good"),))
        assert seen == ["Bearer good"]

    run(scenario())


def test_a_model_that_is_not_a_callers_is_as_one_that_is_not_served(
    served: Served, decoder: Decoder
) -> None:
    caller = Caller("someone", profile=ClientProfile(models=("other",)))

    async def scenario() -> None:
        async with running(served, decoder, TorchBackend(), identified(caller)) as client:
            error = await client.refused("NOT_FOUND")
            assert error.details() == "model='tiny' is not served; one of []"
            for name in ("ModelReady", "ModelMetadata"):
                request = messages.message(f"{name}Request")(name="tiny")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.call(name, request)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
                assert caught.value.details() == error.details()

    run(scenario())


def test_a_budget_may_stand_in_metadata(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            half = (("x-rheostat-fraction", "0.5"), ("other-bin", b"\xff"))
            answer = await client.call("ModelInfer", asked(), metadata=half)
            assert answer.parameters["fraction"].double_param <= 0.5

    run(scenario())


def test_metadata_that_cannot_be_used_is_refused_on_every_call(
    served: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            for name in messages.calls():
                cases: list[tuple[tuple[tuple[str, str | bytes], ...], str]] = [
                    ((("x-rheostat-joules", "1"),), "is not known"),
                    ((("x-rheostat-flops-bin", b"1"),), "is not known"),
                    ((("x-rheostat-flops", "1e12"),) * 2, "is given more than once"),
                ]
                if name != "ModelInfer":
                    cases.append(((("x-rheostat-flops", "1e12"),), "cannot be used here"))
                for metadata, message in cases:
                    with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
                        await client.call(name, metadata=metadata)
                    assert caught.value.code().name == "INVALID_ARGUMENT"

    run(scenario())


def test_parameters_without_a_value_are_as_if_they_were_not_there(
    served: Served, decoder: Decoder
) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            plain = await client.call("ModelInfer", asked())
            request = asked()
            for name in ("budget_flops", "timeout", "dimensions", "preference_fish"):
                request.parameters[name].SetInParent()
            request.outputs.add(name="fish").parameters["classification"].SetInParent()
            answer = await client.call("ModelInfer", request)
            assert answer.raw_output_contents[0] == plain.raw_output_contents[0]
            assert answer.outputs[0].datatype == "FP32"

    run(scenario())


@pytest.mark.parametrize("compression", ["NoCompression", "Gzip", "Deflate"])
def test_a_message_beyond_the_limit_is_refused_however_small_it_travels(
    served: Served, decoder: Decoder, compression: str
) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            form = getattr(grpc.Compression, compression)
            await client.call("ModelInfer", asked(), compression=form)
            request = asked()
            request.raw_input_contents.append(bytes(50 * MAX_BYTES))
            await client.refused("RESOURCE_EXHAUSTED", request, compression=form)

    run(scenario())


def test_a_port_that_is_taken_is_an_error(served: Served, decoder: Decoder) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            inference = Inference(client.service, 2, 2)
            for address in (client.address, "256.0.0.1:1"):
                host, _, port = address.partition(":")
                again = GrpcServer(inference, Calls(identified()), host, int(port), 1, 1, 1.0)
                with pytest.raises(SettingsError, match=f"cannot listen on {re.escape(address)}"):
                    await again.__aenter__()

    run(scenario())


PARAMETER = st.fixed_dictionaries(
    {},
    optional={
        name: st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=3)
        for name in ("budget_macs", "timeout", "priority", "preference_fish", "truncate", "x")
    },
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    raw=st.lists(st.binary(max_size=60), max_size=2),
    shape=st.lists(st.integers(-1, 4), max_size=5),
    name=st.sampled_from(["image", "rgb", "pixel_values", "x"]),
    datatype=st.sampled_from(["BYTES", "UINT8", "FP32", "FP16", ""]),
    contents=st.lists(st.integers(0, 300), max_size=4),
    parameters=PARAMETER,
)
def test_any_request_is_asked_or_the_clients_fault(
    raw: list[bytes],
    shape: list[int],
    name: str,
    datatype: str,
    contents: list[int],
    parameters: dict[str, Any],
    served: Served,
    decoder: Decoder,
) -> None:
    request = asked(**parameters)
    del request.inputs[:], request.raw_input_contents[:]
    request.raw_input_contents.extend(raw)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    tensor.contents.uint_contents.extend(contents)

    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            try:
                await client.call("ModelInfer", request)
            except grpc.aio.AioRpcError as error:
                codes = ("INVALID_ARGUMENT", "DEADLINE_EXCEEDED")
                assert error.code().name in codes, error.details()  # noqa: PT017

    run(scenario())

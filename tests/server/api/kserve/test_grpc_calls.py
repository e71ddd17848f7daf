"""What is told of gRPC calls: their lines in the log, their ids and their spans."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from models.backends.torch import TorchBackend
from server.clients.caller import Caller
from server.errors import DatabaseError
from server.inputs.decoder import Decoder
from server.served import Served
from server.settings import Settings
from tests.server.around import until
from tests.server.backends import FailingBackend, HeldBackend
from tests.server.listening import free_port
from tests.server.samples import run
from tests.server.written import FORMS, Written

pytest.importorskip("grpc", reason="needs the extra grpc")
pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

import grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from server.api.kserve import messages
from tests.server.api.kserve.grpc_server import asked, held, identified, running, trailing
from tests.server.traced import (
    Traced,
    assert_continues,
    attributes,
    client_context,
    traced_app,
)

INFER = "inference.GRPCInferenceService/ModelInfer"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


def test_a_call_is_one_line_with_its_path_code_time_id_model_and_client(
    served: Served, decoder: Decoder, written: Written
) -> None:
    async def scenario() -> None:
        async with running(
            served, decoder, TorchBackend(), identified(Caller(client="acme"))
        ) as client:
            call = client.call("ModelInfer", asked(), metadata=(("x-request-id", "run-7"),))
            await call
            assert dict(await call.trailing_metadata())["x-request-id"] == "run-7"

    run(scenario())
    (line,) = written.access()
    assert 0 < line.pop("duration_ms") < 60_000
    assert line.pop("message").startswith(f"gRPC /{INFER} OK ")
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "rheostat.access",
        "method": "gRPC",
        "path": f"/{INFER}",
        "grpc_status": "OK",
        "request_id": "run-7",
        "model": "tiny",
        "client": "acme",
    }
    (text,) = [line for line in written.lines("console") if "rheostat.access" in line]
    assert f"[run-7]: gRPC /{INFER} OK " in text
    assert text.endswith(" ms model=tiny client=acme")


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "a=b"])
def test_an_id_that_is_no_plain_word_is_replaced(
    served: Served, decoder: Decoder, written: Written, given: str
) -> None:
    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            metadata = (("x-request-id", given),)
            error = await client.refused(
                "INVALID_ARGUMENT", asked(budget_macs=1), metadata=metadata
            )
        found = trailing(error)
        (line,) = written.access()
        assert line["grpc_status"] == "INVALID_ARGUMENT"
        assert line["request_id"] == found["x-request-id"] != given
        assert len(found["x-request-id"]) == 32
        assert found["x-should-retry"] == "false"

    run(scenario())


def test_neither_payload_nor_key_of_a_call_is_logged(
    served: Served, decoder: Decoder, written: Written
) -> None:
    request = asked()
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(b"hush payload")
    keys = (("x-api-key", "hush-key"), ("authorization", "Bearer hush-bearer"))

    async def scenario() -> None:
        async with running(served, decoder, TorchBackend()) as client:
            await client.refused("INVALID_ARGUMENT", request, metadata=keys)

    run(scenario())
    assert len(written.access()) == 1
    for form in FORMS:
        assert "hush" not in "\n".join(written.lines(form))


def test_calls_that_end_early_are_logged_with_the_code_that_the_client_sees(
    served: Served, decoder: Decoder, written: Written
) -> None:
    async def scenario() -> None:
        backend = HeldBackend()
        async with running(served, decoder, backend) as client, held(client, backend):
            await client.refused("DEADLINE_EXCEEDED", asked(), timeout=0.2)
            await until(lambda: len(written.access()) == 1)
            second = client.call("ModelInfer", asked())
            await until(lambda: b"rheostat_queue_depth 2.0" in client.service.metrics.text())
            second.cancel()
            await until(lambda: len(written.access()) == 2)

    run(scenario())
    codes = [line["grpc_status"] for line in written.access()]
    assert codes == ["DEADLINE_EXCEEDED", "CANCELLED", "OK"]


class Address(NamedTuple):
    """An app whose spans stay here, and where it listens for gRPC."""

    traced: Traced
    channel: grpc.Channel

    def call(self, name: str, request: Any = None, *metadata: tuple[str, str]) -> Any:
        """Call and return the response."""
        takes, gives = messages.calls()[name]
        method = self.channel.unary_unary(
            f"/{messages.SERVICE}/{name}",
            request_serializer=takes.SerializeToString,
            response_deserializer=gives.FromString,
        )
        return method(takes() if request is None else request, metadata=metadata)

    def spans(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """Return the one call that has ended since the last call, and what is below it."""
        spans = self.traced.spans()
        (found,) = [span for span in spans if span.kind is SpanKind.SERVER]
        return found, [span for span in spans if span is not found]


def listening_app(settings: Settings) -> Iterator[Address]:
    port = free_port()
    for traced in traced_app(settings.model_copy(update={"grpc_port": port})):
        traced.spans()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Address(traced, channel)


@pytest.fixture(scope="module")
def module_app(settings: Settings) -> Iterator[Address]:
    yield from listening_app(settings)


@pytest.fixture
def app(module_app: Address) -> Address:
    module_app.traced.spans()
    return module_app


def test_a_call_is_a_span_with_a_child_for_each_stage(app: Address) -> None:
    answer = app.call("ModelInfer", asked(), ("x-request-id", "run-7"))
    span, below = app.spans()
    assert span.name == INFER
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    told = answer.parameters
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": INFER,
        "rpc.response.status_code": "OK",
        "rheostat.request_id": "run-7",
        "rheostat.model": "tiny",
        "rheostat.backend": told["backend"].string_param,
        "rheostat.subnet": told["subnet"].string_param,
        "rheostat.flops": told["flops"].int64_param,
        "rheostat.fraction": told["fraction"].double_param,
        "rheostat.quality": told["quality"].double_param,
        "rheostat.slimmed": False,
    }
    assert [one.name for one in below] == ["decode", "search", "queue", "run"]
    assert all(one.parent == span.context for one in below)


def test_the_callers_trace_goes_on_over_grpc(app: Address) -> None:
    sent, asking = client_context()
    app.call("ModelInfer", asked(), *sent.items())
    span, below = app.spans()
    assert_continues(asking, span, below)


def test_what_the_caller_does_not_sample_leaves_no_spans(app: Address) -> None:
    app.call("ModelInfer", asked(), ("traceparent", f"{PARENT}-00"))
    assert app.traced.spans() == []


@pytest.mark.parametrize("parent", ["", "00-0-0-01", f"{PARENT}-" + "f" * 5000])
def test_a_context_that_is_none_begins_a_new_trace(app: Address, parent: str) -> None:
    app.call("ModelInfer", asked(), ("traceparent", parent))
    span, _ = app.spans()
    assert span.parent is None


def test_a_refused_call_says_how_it_ended_and_is_no_error_of_the_server(app: Address) -> None:
    with pytest.raises(grpc.RpcError):
        app.call("ModelInfer", asked(budget_macs=1))
    span, _ = app.spans()
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert attributes(span)["rheostat.outcome"] == "infeasible"


def test_a_call_that_fails_in_the_server_marks_its_span(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FailingBackend()
    monkeypatch.setattr("server.app.make_backend", lambda settings: backend)
    for app in listening_app(settings):
        backend.error = ValueError("hush")
        with pytest.raises(grpc.RpcError):
            app.call("ModelInfer", asked())
        span, below = app.spans()
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["rpc.response.status_code"] == "INTERNAL"
        assert attributes(span)["error.type"] == "INTERNAL"
        assert attributes(span)["rheostat.outcome"] == "failed"
        assert "hush" not in "".join(one.to_json() for one in (span, *below))


@pytest.mark.parametrize("name", ["ServerLive", "ServerReady"])
def test_probes_over_grpc_leave_no_spans_and_are_logged_at_debug_alone(
    app: Address, written: Written, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    app.call(name)
    assert app.traced.spans() == []
    assert not written.access()
    with caplog.at_level(logging.DEBUG):
        app.call(name)
    (line,) = written.access()
    assert (line["level"], line["grpc_status"]) == ("DEBUG", "OK")


def test_a_server_that_cannot_answer_for_now_says_when_to_come_back(
    served: Served, decoder: Decoder
) -> None:
    async def identify(_: object) -> Caller:
        raise DatabaseError("the database is away")

    async def scenario() -> None:
        async with running(served, decoder, TorchBackend(), identify) as client:
            found = trailing(await client.refused("UNAVAILABLE", asked()))
        assert found["retry-after"] == "1"
        assert found["grpc-retry-pushback-ms"] == found["retry-after-ms"] == "1000"

    run(scenario())

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

import httpx
import pytest
from fastapi.testclient import TestClient

from rheostat import AsyncClient
from server.app import create_app
from server.settings import Settings, SettingsError
from tests.server.backends import FailingBackend
from tests.server.listening import free_port
from tests.server.samples import image, run, text_of

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

from opentelemetry.propagate import inject
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from server.observe.tracing import Tracing
from tests.server.traced import (
    Traced,
    assert_continues,
    attributes,
    client_context,
    traced_app,
)

BODY = {"image": text_of(image())}
WAIT_S = 30


@pytest.fixture(scope="module")
def app(settings: Settings) -> Iterator[Traced]:
    yield from traced_app(settings)


@pytest.fixture(scope="module")
def text_app(text_settings: Settings) -> Iterator[Traced]:
    yield from traced_app(text_settings)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    for name in {"app", "text_app"} & set(request.fixturenames):
        request.getfixturevalue(name).spans()


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def test_a_request_is_a_span_that_says_what_ran(app: Traced) -> None:
    response = app.client.post("/v1/infer", json=BODY, headers={"x-request-id": "run-7"})
    receipt = response.json()["receipt"]
    span = app.request()
    assert span.name == "POST /v1/infer"
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    found = attributes(span)
    assert {name: found[name] for name in found if name.startswith(("http.", "url.path"))} == {
        "http.request.method": "POST",
        "http.route": "/v1/infer",
        "http.response.status_code": 200,
        "url.path": "/v1/infer",
    }
    assert {name: found[name] for name in found if name.startswith("rheostat.")} == {
        "rheostat.request_id": "run-7",
        "rheostat.model": "tiny",
        "rheostat.subnet": " ".join(f"{k}={v}" for k, v in receipt["subnet"].items()),
        "rheostat.flops": receipt["flops"],
        "rheostat.fraction": receipt["fraction"],
        "rheostat.quality": receipt["quality"],
        "rheostat.slimmed": False,
        "rheostat.backend": receipt["backend"],
    }
    assert span.resource.attributes["service.name"] == "rheostat"


def test_the_stages_are_its_children_with_the_times_of_the_receipt(app: Traced) -> None:
    answer = app.client.post("/v1/infer", json={"images": [BODY["image"]] * 3}).json()
    spans = app.spans()
    (request,) = [span for span in spans if span.kind is SpanKind.SERVER]
    stages = {span.name: span for span in spans if span is not request}
    assert list(stages) == ["decode", "search", "queue", "run"]
    for name, span in stages.items():
        assert span.parent == request.context
        start, end = times(span)
        milliseconds = answer["receipt"]["milliseconds"][name]
        assert (end - start) / 1e6 == pytest.approx(milliseconds, abs=0.01)
    assert times(stages["decode"])[1] == times(stages["search"])[0]
    assert times(stages["queue"])[1] == times(stages["run"])[0]
    assert times(request)[0] <= times(stages["decode"])[0]
    assert times(stages["run"])[1] <= times(request)[1]
    assert attributes(stages["run"]) == {"rheostat.batch_size": 3, "rheostat.num_inputs": 3}


def test_each_run_of_a_cascade_has_its_spans(text_app: Traced) -> None:
    body = {
        "query": "w1",
        "documents": ["w1 w2", "w3", "w4"],
        "model": "tiny-text",
        "cascade": {"depth": 1, "keep": 1},
    }
    assert text_app.client.post("/v1/rerank", json=body).status_code == 200
    names = [span.name for span in text_app.spans()]
    assert names == ["decode", "search", "queue", "run", "queue", "run", "POST /v1/rerank"]


def test_the_clients_trace_goes_on(app: Traced) -> None:
    headers, asking = client_context()
    # Outside: in-process clients would hand on their context without the header.
    response = app.client.post("/v1/infer", json=BODY, headers=headers)
    assert "traceparent" not in response.headers
    spans = app.spans()
    assert len(spans) == 5
    (request,) = [span for span in spans if span.kind is SpanKind.SERVER]
    assert_continues(asking, request, spans)


class Injecting(httpx.ASGITransport):
    """Sends the trace's context along, as OpenTelemetry's own transports for httpx do."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        inject(request.headers)
        return await super().handle_async_request(request)


def test_our_own_client_sends_its_trace_by_its_transport(app: Traced) -> None:
    async def scenario() -> None:
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("client")
        transport = Injecting(app.client.app)
        async with AsyncClient("http://test", transport=transport) as client:
            with tracer.start_as_current_span("ask") as asking:
                await client.models()
        parent = app.request().parent
        assert parent is not None
        assert parent.is_remote  # from the header, not from this process's context
        assert parent.span_id == asking.get_span_context().span_id

    run(scenario())


def test_what_the_client_does_not_sample_leaves_no_spans(app: Traced) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    assert app.client.post("/v1/infer", json=BODY, headers={"traceparent": parent}).is_success
    assert app.spans() == []


@pytest.mark.parametrize("parent", ["", "00-0-0-01", "é".encode(), "00-" + "f" * 5000])
def test_a_context_that_is_none_begins_a_new_trace(app: Traced, parent: str | bytes) -> None:
    value = parent if isinstance(parent, bytes) else parent.encode()
    assert app.client.post("/v1/infer", json=BODY, headers={b"traceparent": value}).is_success
    assert app.request().parent is None


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        ({**BODY, "budget": {"macs": 1}}, 422, "infeasible"),
        ({"image": text_of(b"no image")}, 422, "invalid"),
    ],
)
def test_a_refusal_says_how_it_ended_and_is_no_error_of_the_server(
    app: Traced, body: dict[str, object], status: int, outcome: str
) -> None:
    assert app.client.post("/v1/infer", json=body).status_code == status
    span = app.request()
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span)["rheostat.outcome"] == outcome
    assert attributes(span)["http.response.status_code"] == status


def test_an_error_of_the_server_marks_the_span(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FailingBackend()
    monkeypatch.setattr("server.app.make_backend", lambda settings: backend)
    for app in traced_app(settings):
        app.spans()
        backend.error = ValueError("hush")
        assert app.client.post("/v1/infer", json=BODY).status_code == 500
        spans = app.spans()
        (request,) = [span for span in spans if span.kind is SpanKind.SERVER]
        assert request.status.status_code is StatusCode.ERROR
        assert attributes(request)["rheostat.outcome"] == "failed"
        assert attributes(request)["http.response.status_code"] == 500
        assert [span.name for span in spans] == ["decode", "search", "POST /v1/infer"]
        assert "hush" not in "".join(span.to_json() for span in spans)


def test_spans_hold_no_query_string(app: Traced) -> None:
    app.client.get("/v1/models?key=hush")
    span = app.request()
    assert attributes(span)["url.query"] == "REDACTED"
    assert "hush" not in span.to_json()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_leave_no_spans(app: Traced, path: str) -> None:
    assert app.client.get(path).is_success
    assert app.spans() == []


class Collector:
    """Takes OTLP over HTTP and keeps the messages."""

    def __init__(self) -> None:
        self.messages: Queue[ExportTraceServiceRequest] = Queue()
        messages = self.messages

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the method's name is http.server's
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                length = int(self.headers["content-length"])
                messages.put(ExportTraceServiceRequest.FromString(self.rfile.read(length)))
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_a_collector_gets_all_spans_at_the_latest_when_the_server_ends(settings: Settings) -> None:
    with Collector() as collector:
        traced = settings.model_copy(update={"traces": collector.url})
        with TestClient(create_app(traced)) as client:
            for _ in range(2):
                assert client.post("/v1/infer", json=BODY).status_code == 200
        spans: list[Span] = []
        while len(spans) < 10:
            message = collector.messages.get(timeout=WAIT_S)
            (group,) = message.resource_spans
            names = {one.key: one.value.string_value for one in group.resource.attributes}
            assert names["service.name"] == "rheostat"
            spans += [span for scope in group.scope_spans for span in scope.spans]
    requests = [span for span in spans if span.name == "POST /v1/infer"]
    assert len(requests) == 2
    assert len({span.trace_id for span in requests}) == 2
    children = [span.name for span in spans if span.parent_span_id == requests[0].span_id]
    assert children == ["decode", "search", "queue", "run"]
    known = {one.key: one.value for one in requests[0].attributes}
    assert known["rheostat.model"].string_value == "tiny"
    assert known["http.response.status_code"].int_value == 200
    assert known["rheostat.flops"].int_value > 0


def test_a_collector_that_is_not_there_costs_no_request_and_ends_with_the_server(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.observe.tracing._FLUSH_S", 0.1)
    url = f"http://127.0.0.1:{free_port()}/v1/traces"
    traced = settings.model_copy(update={"traces": url})
    with TestClient(create_app(traced)) as client:
        for _ in range(20):
            assert client.post("/v1/infer", json=BODY).status_code == 200
    assert "the collector did not take all spans within 0.1 s" in caplog.text
    for thread in sending_threads():
        thread.join(WAIT_S)


class Stuck(InMemorySpanExporter):
    """Never done with what it was first given, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.may_go = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        assert self.may_go.wait(WAIT_S)
        return super().export(spans)


def test_a_collector_that_never_answers_holds_up_neither_spans_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.observe.tracing._FLUSH_S", 0.1)
    exporter = Stuck()
    tracing = Tracing(exporter)
    tracer = tracing.provider.get_tracer("test")
    for _ in range(512):
        tracer.start_span("sent").end()
    assert exporter.entered.wait(WAIT_S)  # with a full message
    for _ in range(5000):
        tracer.start_span("waiting").end()
    assert "Queue full, dropping Span" in caplog.text
    tracing.close()
    (sending,) = sending_threads()
    assert sending.daemon
    exporter.may_go.set()
    sending.join(WAIT_S)
    assert not sending.is_alive()


def sending_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "traces"]


@pytest.mark.slow
def test_without_the_setting_the_sdk_is_not_even_imported(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from fastapi.testclient import TestClient\n"
        "from server.app import create_app; from server.settings import Settings\n"
        f"settings = Settings(models={str(folder)!r}, database='sqlite:///{tmp_path}/c.db')\n"
        "with TestClient(create_app(settings)) as client:\n"
        f"    assert client.post('/v1/infer', json={BODY!r}).status_code == 200\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', "
        "'opentelemetry.exporter', 'server.observe.tracing'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_sdk_that_is_not_installed_is_refused_by_name(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "server.observe.tracing", None)
    traced = settings.model_copy(update={"traces": "http://localhost:4318/v1/traces"})
    with pytest.raises(SettingsError, match=r"traces=http.* is missing: .*rheostat\[otel\]"):
        create_app(traced)

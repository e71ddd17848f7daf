"""Apps whose spans stay in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind

from server.app import create_app
from server.observe.tracing import Tracing
from server.settings import Settings


class Traced:
    """An app whose spans stay here."""

    def __init__(
        self, client: TestClient, tracing: Tracing, exporter: InMemorySpanExporter
    ) -> None:
        self.client = client
        self._tracing = tracing
        self._exporter = exporter

    def spans(self) -> list[ReadableSpan]:
        """Return what has ended since the last call."""
        self._tracing.provider.force_flush()
        found = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return found

    def request(self) -> ReadableSpan:
        """Return the one request that has ended since the last call."""
        (span,) = [span for span in self.spans() if span.kind is SpanKind.SERVER]
        return span


def traced_app(settings: Settings) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    with pytest.MonkeyPatch.context() as patch:
        tracing = Tracing(exporter)
        patch.setattr("server.app.make_tracing", lambda settings: tracing)
        app = create_app(settings)
    with TestClient(app) as client:
        yield Traced(client, tracing, exporter)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def client_context() -> tuple[dict[str, str], SpanContext]:
    """Return what a client sends along from within a span of its own, and that span's context."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("client")
    with tracer.start_as_current_span("ask") as asking:
        sent: dict[str, str] = {}
        inject(sent)
    assert set(sent) == {"traceparent"}
    return sent, asking.get_span_context()


def assert_continues(
    asking: SpanContext, request: ReadableSpan, spans: Sequence[ReadableSpan]
) -> None:
    """Check that a request is a child of the client's span, and all else of the same trace."""
    assert request.parent is not None
    assert request.parent.is_remote
    assert request.parent.span_id == asking.span_id
    ids = {span.context.trace_id for span in (request, *spans) if span.context}
    assert ids == {asking.trace_id}

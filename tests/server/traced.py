"""Apps whose spans stay in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from server.app import create_app
from server.settings import Settings
from server.tracing import Tracing


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

"""OpenTelemetry: below FastAPI's span of a request, or ours of a gRPC call, one for each stage.

Importing this needs the extra `otel`. What the SDK reads from ``OTEL_`` variables holds: headers
for the collector, sampling, names of the service, formats of the context that clients send.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib.metadata import version
from threading import Thread

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from server.admitted import Admitted
from server.choose import Choice
from server.engine.item import ItemResult
from server.observe.logs import request_id
from server.observe.metrics import Stage, outcome_of
from server.served import Served

log = logging.getLogger(__name__)

_MAX_WAITING = 2048  # spans; those that end while so many wait for the collector are dropped
_MAX_SENT = 512  # spans in one message to the collector
_EXPORT_S = 10.0  # for one message, repetitions included
_FLUSH_S = 2.0  # for what waits when the server ends
# gRPC's codes that OpenTelemetry's conventions have for errors of the server.
_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class Tracing:
    """Makes spans and hands them to an exporter.

    Attributes:
        provider: For FastAPI, which makes the spans of requests.
    """

    def __init__(self, exporter: SpanExporter, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Create the tracer of one app.

        Args:
            exporter: Sends spans, in batches, from a thread that no request waits for.
            now_ns: Nanoseconds since 1970, as the SDK stamps spans.
        """
        own = {"service.name": "rheostat", "service.version": version("rheostat")}
        resource = Resource.create(own).merge(OTELResourceDetector().detect())
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(_Redacting())
        self.provider.add_span_processor(
            BatchSpanProcessor(exporter, _MAX_WAITING, max_export_batch_size=_MAX_SENT)
        )
        self._exporter = exporter
        self._tracer = self.provider.get_tracer("rheostat", version("rheostat"))
        self._now_ns = now_ns

    @classmethod
    def to_collector(cls, url: str) -> Tracing:
        """Send spans to a collector that takes OTLP over HTTP."""
        return cls(OTLPSpanExporter(url, timeout=_EXPORT_S))

    @contextmanager
    def call(self, method: str, metadata: Mapping[str, str]) -> Iterator[Callable[[str], None]]:
        """Make the span of a gRPC call, and let it be the span at hand; below the client's, if any.

        Args:
            method: Service and method, with a slash between them.
            metadata: Of the call.

        Yields:
            What to tell the name of the call's code.
        """
        with self._tracer.start_as_current_span(
            method,
            extract(metadata, Context()),
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def end(code: str) -> None:
                span.set_attribute("rpc.response.status_code", code)
                if code in _FAULTS:
                    span.set_attribute("error.type", code)
                    span.set_status(StatusCode.ERROR)

            yield end

    def follow(
        self, admission: AbstractAsyncContextManager[Admitted], served: Served, backend: str
    ) -> AbstractAsyncContextManager[Admitted]:
        """Make spans of an admission's stages as they end, below the span at hand, if any.

        Args:
            admission: Of a request.
            served: Its model.
            backend: What will run it.
        """
        span = trace.get_current_span()
        if not span.is_recording():
            return admission
        known = {"rheostat.model": served.name, "rheostat.backend": backend}
        span.set_attributes(known | {"rheostat.request_id": request_id() or ""})
        return self._followed(admission, span)

    @asynccontextmanager
    async def _followed(
        self, admission: AbstractAsyncContextManager[Admitted], span: trace.Span
    ) -> AsyncIterator[Admitted]:
        start_ns = self._now_ns()
        try:
            async with admission as admitted:
                decoded_ns = start_ns + _ns(admitted.seconds[Stage.DECODE])
                searched_ns = decoded_ns + _ns(admitted.seconds[Stage.SEARCH])
                self._stage(Stage.DECODE, start_ns, decoded_ns)
                self._stage(Stage.SEARCH, decoded_ns, searched_ns)
                span.set_attributes(_attributes(admitted.choice))
                admitted.on_ran = self._ran
                yield admitted
        except BaseException as error:
            # The status of the span is that of the response, which is made further out.
            span.set_attribute("rheostat.outcome", outcome_of(error))
            raise

    def _ran(self, slowest: ItemResult, num_items: int) -> None:
        """Make the spans of a run that has just ended."""
        end_ns = self._now_ns()
        ran_ns = end_ns - _ns(slowest.run_s)
        self._stage(Stage.QUEUE, ran_ns - _ns(slowest.queue_s), ran_ns)
        size = {"rheostat.batch_size": slowest.batch_size, "rheostat.num_inputs": num_items}
        self._stage(Stage.RUN, ran_ns, end_ns, size)

    def _stage(
        self, stage: Stage, start_ns: int, end_ns: int, attributes: dict[str, int] | None = None
    ) -> None:
        span = self._tracer.start_span(stage, start_time=start_ns, attributes=attributes)
        span.end(end_ns)

    def close(self) -> None:
        """Send what waits, as far as the collector takes it in time."""
        # The SDK's own limit is 30 s and cannot be set.
        sending = Thread(target=self.provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_FLUSH_S)
        if sending.is_alive():
            log.warning("the collector did not take all spans within %g s", _FLUSH_S)
            self._exporter.shutdown()  # no more attempts


class _Redacting(SpanProcessor):
    """Take query strings out of spans: no path reads any, but somebody may send a key there."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if span.attributes and "url.query" in span.attributes:
            span.set_attribute("url.query", "REDACTED")


def _attributes(choice: Choice) -> dict[str, AttributeValue]:
    selection = choice.selection
    return {
        "rheostat.subnet": " ".join(f"{axis}={value}" for axis, value in selection.subnet.items()),
        "rheostat.flops": selection.cost.flops,
        "rheostat.fraction": selection.fraction,
        "rheostat.quality": selection.quality,
        "rheostat.slimmed": choice.is_slimmed,
    }


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)

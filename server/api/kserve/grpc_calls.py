"""What every gRPC call passes: an id, a line in the log, a span, who calls, words for any error.

Calls that gRPC ends before they come here leave neither line nor span: unknown methods, messages
that are too large or no messages, and those beyond the calls at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from server.api.options import Options, read_options
from server.clients.caller import ANYONE, Caller
from server.errors import RheostatError
from server.http.forms import translate
from server.observe import logs

if TYPE_CHECKING:
    from server.observe.tracing import Tracing  # needs an extra

Identify = Callable[[Mapping[str, str]], Awaitable[Caller]]
"""Returns who calls, by a call's metadata, such as ``authorization``; or raises."""

_ID = "x-request-id"
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Call(NamedTuple):
    """What is known of a call beside its request.

    Attributes:
        metadata: In lower case; without what is not text.
        caller: Who calls.
        options: Of the metadata.
        left_s: Until the client gives up; None if it does not say.
    """

    metadata: Mapping[str, str]
    caller: Caller
    options: Options
    left_s: float | None


Answer = Callable[[Any, Call], Awaitable[Any]]
Handler = Callable[[Any, Any], Awaitable[Any]]


@dataclass(slots=True)
class _Seen:
    """What the log and the span tell of a call when it is over."""

    caller: Caller = ANYONE
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN


class Calls:
    """Makes handlers of calls."""

    def __init__(
        self,
        identify: Identify,
        tracing: Tracing | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Create the outer edge of a server.

        Args:
            identify: Says who calls; not asked about health.
            tracing: Makes spans; None for none.
            clock: Returns seconds.
        """
        self._identify = identify
        self._tracing = tracing
        self._clock = clock

    def handler(self, method: str, answer: Answer, is_probe: bool, runs_model: bool) -> Handler:
        """Return what gRPC calls, around what answers.

        Args:
            method: Service and method, with a slash between them.
            answer: Returns the response, or raises.
            is_probe: Whether machines ask it every few seconds: public, and hardly worth a line.
            runs_model: Whether it can use options.
        """

        async def handle(request: Any, context: Any) -> Any:
            pairs = context.invocation_metadata() or ()
            metadata = {key: value for key, value in pairs if isinstance(value, str)}
            current = logs.begin(logs.id_or_new(metadata.get(_ID, "")))
            trailing = {_ID: current.request_id}
            with self._seen(method, metadata, current, is_probe) as seen:
                try:
                    if not is_probe:
                        seen.caller = await self._identify(metadata)
                    named = [(k, v if isinstance(v, str) else "") for k, v in pairs]
                    options = read_options(named, runs_model)
                    call = Call(metadata, seen.caller, options, context.time_remaining())
                    response = await answer(request, call)
                except asyncio.CancelledError:
                    seen.code = _code_of_end(context.time_remaining())
                    raise
                except Exception as error:  # noqa: BLE001  # the outer edge of a call
                    told = translate(error)
                    seen.code = _code(told)
                else:
                    seen.code = grpc.StatusCode.OK
                    context.set_trailing_metadata(tuple(trailing.items()))
                    return response
            trailing |= _hints(told.headers)
            return await context.abort(seen.code, told.message, tuple(trailing.items()))

        return handle

    @contextmanager
    def _seen(
        self, method: str, metadata: Mapping[str, str], current: logs.Current, is_probe: bool
    ) -> Iterator[_Seen]:
        """Log a call, and make its span, by what is written into the yielded."""
        start, seen = self._clock(), _Seen()
        tracing = None if is_probe else self._tracing
        with nullcontext() if tracing is None else tracing.call(method, metadata) as end_span:
            try:
                yield seen
            finally:
                seconds, code = self._clock() - start, seen.code.name
                if end_span is not None:
                    end_span(code)
                logs.note_call(f"/{method}", code, seconds, current, seen.caller, is_probe)


def _code(error: RheostatError) -> grpc.StatusCode:
    if error.status in _CODES:
        return _CODES[error.status]
    is_clients = 400 <= error.status < 500
    return grpc.StatusCode.INVALID_ARGUMENT if is_clients else grpc.StatusCode.INTERNAL


def _code_of_end(left_s: float | None) -> grpc.StatusCode:
    """Return the code of a call that is ended from outside: by its deadline, or else cancelled."""
    is_late = left_s is not None and left_s <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED


def _hints(headers: Mapping[str, str]) -> dict[str, str]:
    found = {name.lower(): value for name, value in headers.items()}
    if "retry-after-ms" in found:  # what gRPC's own retries go by
        found["grpc-retry-pushback-ms"] = found["retry-after-ms"]
    return found

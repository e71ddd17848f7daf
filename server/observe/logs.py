"""What the log looks like: a line per record, for people or as JSON, with the id of its request.

Text that clients send ends up in messages and tracebacks. Neither form lets it break a line or
look like a record of its own.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TextIO
from urllib.parse import quote

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter
from starlette.types import Scope

from server.clients.caller import ANYONE, Caller
from server.http.routed import route_path

Format = Literal["console", "json"]

PROBES = frozenset(
    {"/healthz", "/readyz", "/metrics", "/health", "/ping", "/v2/health/live", "/v2/health/ready"}
)
"""Paths that machines ask every few seconds; nobody wants to read about them."""

_access = logging.getLogger("rheostat.access")
_INDENT = "    "
_ID_BYTES = 16
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_MAX_PATH = 200  # characters that a line repeats of a path that is none of ours


@dataclass(slots=True)
class Current:
    """The request at hand, as far as the log tells of it.

    Attributes:
        request_id: Its id.
        model: The model that answers it, once that is known.
    """

    request_id: str
    model: str | None = None


_current: ContextVar[Current | None] = ContextVar("current", default=None)


def configure(form: Format, level: str, stream: TextIO | None = None) -> None:
    """Send what any library logs in one form to a stream, or to standard error."""
    logging.basicConfig(level=level.upper(), handlers=[handler_of(form, stream)])
    logging.captureWarnings(True)
    # No line tells these, and to find them out takes a third of the time of writing one.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # its documented switch: no caller


def handler_of(form: Format, stream: TextIO | None = None) -> logging.Handler:
    """Return what writes records in a form; to standard error if no stream is given."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(form))
    handler.addFilter(_add_request_id)
    return handler


def id_or_new(given: str) -> str:
    """Return what a client calls its request if that is a plain word, else a new id."""
    return given if _PLAIN_WORD.fullmatch(given) else os.urandom(_ID_BYTES).hex()


def begin(request_id: str) -> Current:
    """Name the request that the task at hand answers, for all that is logged from now on.

    It is not taken back at the end: the web server gives each request a task of its own, and what
    escapes us is logged there.
    """
    current = Current(request_id)
    _current.set(current)
    return current


def note_model(name: str) -> None:
    """Name the model that answers the request at hand."""
    current = _current.get()
    if current is not None:
        current.model = name


def request_id() -> str | None:
    """Return the id of the request at hand; None outside of any."""
    current = _current.get()
    return None if current is None else current.request_id


def note_access(scope: Scope, status: int | None, seconds: float, current: Current) -> None:
    """Log one request: neither its payload nor its key nor its query string.

    Args:
        scope: Of the request, after routing.
        status: Of the response; None if there was none.
        seconds: That the answer took.
        current: The request.
    """
    answer = {"method": scope["method"], "path": _path(scope), "status": status}
    caller: Caller = scope["state"].get("caller", ANYONE)
    _note(answer, seconds, current, caller, route_path(scope) in PROBES)


def note_call(
    path: str, status: str, seconds: float, current: Current, caller: Caller, is_probe: bool
) -> None:
    """Log one gRPC call; the status has a name of its own, as a field of a JSON log has one type.

    Args:
        path: Of service and method, as HTTP/2 carries it.
        status: Name of its code.
        seconds: That the answer took.
        current: The call.
        caller: Who sent it.
        is_probe: Whether machines ask it every few seconds.
    """
    answer = {"method": "gRPC", "path": path, "grpc_status": status}
    _note(answer, seconds, current, caller, is_probe)


def _note(
    answer: Mapping[str, str | int | None],
    seconds: float,
    current: Current,
    caller: Caller,
    is_probe: bool,
) -> None:
    level = logging.DEBUG if is_probe else logging.INFO
    if not _access.isEnabledFor(level):
        return
    fields = {**answer, "duration_ms": round(1000 * seconds, 3)}
    line = " ".join(map(str, fields.values())) + " ms"
    for name, value in (("model", current.model), ("client", caller.client)):
        if value:
            fields[name] = value
            line += f" {name}={value}"
    _access.log(level, "%s", line, extra=fields)


def _add_request_id(record: logging.LogRecord) -> bool:
    """Add the id of the request at hand, if there is one; drop no record."""
    current = _current.get()
    if current is not None:
        record.request_id = current.request_id
    return True


def _path(scope: Scope) -> str:
    """Return the template of the path, so that lines of one route are alike, or the path quoted."""
    template: str | None = getattr(scope.get("route"), "path_format", None)
    return template or quote(scope["path"][:_MAX_PATH], errors="replace")


def _formatter(form: Format) -> logging.Formatter:
    if form == "console":
        return _ConsoleFormatter()
    return JsonFormatter(  # escapes all that is not ASCII
        ["levelname", "name", "message"],
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger"},
        reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's second spelling
    )


class _ConsoleFormatter(logging.Formatter):
    """A record is one line; the lines of a traceback below it are indented."""

    _second = -1, ""  # the last one that was written, and how

    def format(self, record: logging.LogRecord) -> str:
        when, asked = self.formatTime(record), getattr(record, "request_id", "-")
        text = f"{when} {record.levelname} {record.name} [{asked}]: {record.getMessage()}"
        lines = [_on_one_line(text.rstrip())]
        if record.exc_info:
            lines.append(_indented(self.formatException(record.exc_info)))
        if record.stack_info:
            lines.append(_indented(self.formatStack(record.stack_info)))
        return "\n".join(lines)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second, text = self._second
        if second != (now := int(record.created)):
            text = time.strftime(self.default_time_format, time.localtime(now))
            self._second = now, text
        return f"{text},{int(record.msecs):03d}"


def _indented(text: str) -> str:
    return "\n".join(_INDENT + _on_one_line(line) for line in text.split("\n"))


def _on_one_line(text: str) -> str:
    """Escape everything that a terminal would not show as it is, line ends above all."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

"""Every error a client can see; `server.http.forms` turns them into responses.

RheostatError                    500  internal
├── ClientError                  400  bad_request
│   ├── InvalidRequestError      422  invalid_request
│   ├── InfeasibleError          422  infeasible_budget
│   ├── AuthenticationError      401  invalid_api_key
│   ├── PermissionDeniedError    403  permission_denied
│   ├── UnknownClientError       404  unknown_client
│   ├── UnknownKeyError          404  unknown_key
│   ├── UnknownIndexError        404  unknown_index
│   ├── UnsupportedMediaError    415  unsupported_media_type
│   ├── PayloadTooLargeError     413  payload_too_large
│   ├── RequestTimeoutError      408  request_timeout
│   ├── MalformedRequestError    400  malformed_request
│   ├── HeadTooLargeError        431  head_too_large
│   ├── UnknownModelError        404  unknown_model
│   ├── UnknownPathError         404  unknown_path
│   ├── MethodNotAllowedError    405  method_not_allowed
│   ├── ConflictError            409  conflict
│   ├── ModelLoadError           422  model_not_loadable
│   └── ClientGoneError          499  client_closed_request
├── OverloadedError              429  overloaded
│   └── QuotaExceededError       429  quota_exceeded
├── UnavailableError             503  unavailable
│   ├── DatabaseError            503  database_unavailable
│   └── ModelNotReadyError       503  not_ready
├── DeadlineError                504  deadline_exceeded
└── InferenceError               500  inference_failed

`models` and `search` raise their own exceptions and know nothing of HTTP;
`server.http.forms.translate` maps them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

_LEAST_RETRY_S = 0.01
_MAX_SHOWN = 80  # characters of a client's text that a message repeats


class RheostatError(Exception):
    """Root of the tree.

    Attributes:
        status: HTTP status.
        error_type: Stable word for programs.
        message: One sentence for people.
        field: Where in the request, for example ``budget.flops`` or ``images[3]``.
        headers: To be sent with the response.
    """

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "internal"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.headers: Mapping[str, str] = {}

    def extra(self) -> dict[str, object]:
        """Return what this error says beyond type, message and field."""
        return {}


class ClientError(RheostatError):
    """The request is at fault; sending it again will not help."""

    status = 400
    error_type = "bad_request"


class InvalidRequestError(ClientError):
    """A part of the request is missing, unknown, malformed or out of range.

    Attributes:
        details: Every fault found, each with ``field`` and ``message``; empty if there is one.
    """

    status = 422
    error_type = "invalid_request"

    def __init__(
        self, message: str, field: str | None = None, details: Sequence[Mapping[str, object]] = ()
    ) -> None:
        super().__init__(message, field)
        self.details = details

    def extra(self) -> dict[str, object]:
        """Return all faults."""
        return {"details": list(self.details)} if self.details else {}


class InfeasibleError(ClientError):
    """No subnet meets the budget.

    Attributes:
        feasible: The nearest value of ``field`` that can be met.
    """

    status = 422
    error_type = "infeasible_budget"

    def __init__(self, message: str, field: str, feasible: float) -> None:
        super().__init__(message, field)
        self.feasible = feasible
        # Some client libraries repeat by status alone.
        self.headers = {"x-should-retry": "false"}

    def extra(self) -> dict[str, object]:
        """Return the nearest value that can be met."""
        return {"feasible": self.feasible}


class AuthenticationError(ClientError):
    """The request has no key, or one that is not valid."""

    status = 401
    error_type = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"WWW-Authenticate": "Bearer"}


class PermissionDeniedError(ClientError):
    """The client may not do this."""

    status = 403
    error_type = "permission_denied"


class UnknownClientError(ClientError):
    """No client of that id is stored."""

    status = 404
    error_type = "unknown_client"


class UnknownKeyError(ClientError):
    """No key of that id is stored."""

    status = 404
    error_type = "unknown_key"


class UnknownIndexError(ClientError):
    """The client has no index of that name."""

    status = 404
    error_type = "unknown_index"


class UnsupportedMediaError(ClientError):
    """The body's content type is none of those the path reads."""

    status = 415
    error_type = "unsupported_media_type"


class PayloadTooLargeError(ClientError):
    """The body exceeds the limit."""

    status = 413
    error_type = "payload_too_large"


class RequestTimeoutError(ClientError):
    """The client took too long to send its request; nothing was run for it."""

    status = 408
    error_type = "request_timeout"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"Connection": "close"}  # the rest of the request may still come

    @classmethod
    def of(cls, part: str, limit_s: float) -> Self:
        """Return the error of a ``head`` or a ``body`` that was not there in time."""
        return cls(f"the request's {part} was not received within {limit_s:g} s (read_timeout_s)")


class MalformedRequestError(ClientError):
    """The bytes are no request of HTTP/1.1."""

    status = 400
    error_type = "malformed_request"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"Connection": "close"}  # where the next request begins is not known


class HeadTooLargeError(ClientError):
    """The request's head, or what its body has beside content, is larger than allowed."""

    status = 431
    error_type = "head_too_large"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"Connection": "close"}


class UnknownModelError(ClientError):
    """No model of that name is served."""

    status = 404
    error_type = "unknown_model"


class UnknownPathError(ClientError):
    """Nothing answers at this path."""

    status = 404
    error_type = "unknown_path"


class MethodNotAllowedError(ClientError):
    """The path answers other methods."""

    status = 405
    error_type = "method_not_allowed"


class ConflictError(ClientError):
    """The server's state does not allow it now."""

    status = 409
    error_type = "conflict"


class ModelLoadError(ClientError):
    """A checkpoint cannot be served; what was served before goes on."""

    status = 422
    error_type = "model_not_loadable"


class ClientGoneError(ClientError):
    """The client closed the connection before the answer; nobody reads this response."""

    status = 499
    error_type = "client_closed_request"


class OverloadedError(RheostatError):
    """The queue is full, or the wait too long.

    Attributes:
        retry_after_s: When to try again.
    """

    status = 429
    error_type = "overloaded"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = max(_LEAST_RETRY_S, retry_after_s)
        self.headers = _retry_headers(self.retry_after_s)


class QuotaExceededError(OverloadedError):
    """The client has used up one of its quotas; others are served."""

    error_type = "quota_exceeded"

    def __init__(self, message: str, field: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.field = field


class UnavailableError(RheostatError):
    """The server cannot answer for now.

    Attributes:
        retry_after_s: When to try again, if nothing else is known.
    """

    status = 503
    error_type = "unavailable"
    retry_after_s: ClassVar[float] = 1.0

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message, field)
        self.headers = _retry_headers(self.retry_after_s)


class DatabaseError(UnavailableError):
    """The database of clients and keys cannot be used."""

    error_type = "database_unavailable"


class DeadlineError(RheostatError):
    """The request's deadline passed before its turn came; nothing was run for it."""

    status = 504
    error_type = "deadline_exceeded"


class ModelNotReadyError(UnavailableError):
    """The server is starting, stopping, or its worker has died."""

    error_type = "not_ready"


def not_running() -> ModelNotReadyError:
    """Return what is told while nothing runs models."""
    return ModelNotReadyError("the engine is not running: the server is starting or stopping")


class InferenceError(RheostatError):
    """The model failed on an accepted request. The log has the traceback."""

    status = 500
    error_type = "inference_failed"


def _retry_headers(seconds: float) -> dict[str, str]:
    # The standard header has whole seconds; OpenAI's clients prefer the finer one.
    return {
        "Retry-After": str(math.ceil(seconds)),
        "retry-after-ms": str(math.ceil(1000 * seconds)),
    }


def shown(value: object) -> str:
    """Return a client's value as a message may repeat it: short, on one line."""
    if isinstance(value, str):
        value = value[: _MAX_SHOWN + 1]  # before repr, which would copy megabytes
    elif isinstance(value, list | dict | bytes):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."

"""Every error a client can see, and the one place that turns errors into responses.

RheostatError                    500  internal
├── ClientError                  400  bad_request
│   ├── InvalidRequestError      422  invalid_request
│   ├── InfeasibleError          422  infeasible_budget
│   ├── AuthenticationError      401  invalid_api_key
│   ├── PermissionDeniedError    403  permission_denied
│   ├── UnknownClientError       404  unknown_client
│   ├── UnknownKeyError          404  unknown_key
│   ├── UnsupportedMediaError    415  unsupported_media_type
│   ├── PayloadTooLargeError     413  payload_too_large
│   ├── UnknownModelError        404  unknown_model
│   ├── UnknownPathError         404  unknown_path
│   ├── MethodNotAllowedError    405  method_not_allowed
│   ├── ConflictError            409  conflict
│   ├── ModelLoadError           422  model_not_loadable
│   └── ClientGoneError          499  client_closed_request
├── OverloadedError              429  overloaded
│   └── QuotaExceededError       429  quota_exceeded
├── DatabaseError                503  database_unavailable
├── DeadlineError                504  deadline_exceeded
├── ModelNotReadyError           503  not_ready
└── InferenceError               500  inference_failed

`models` and `search` raise their own exceptions and know nothing of HTTP; `translate` maps them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.types import Scope

from search.budget import InfeasibleBudgetError
from search.find import RequestError

log = logging.getLogger(__name__)

_LEAST_RETRY_S = 0.01
_MAX_SHOWN = 80  # characters of a client's text that a message repeats
_MAX_FAULTS = 100  # named; a million unknown fields must not make a million messages
_Model = type[BaseModel] | None


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


class UnsupportedMediaError(ClientError):
    """The body's content type is none of those the path reads."""

    status = 415
    error_type = "unsupported_media_type"


class PayloadTooLargeError(ClientError):
    """The body exceeds the limit."""

    status = 413
    error_type = "payload_too_large"


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
        # The standard header has whole seconds; OpenAI's clients prefer the finer one.
        self.headers = {
            "Retry-After": str(math.ceil(self.retry_after_s)),
            "retry-after-ms": str(math.ceil(1000 * self.retry_after_s)),
        }


class QuotaExceededError(OverloadedError):
    """The client has used up one of its quotas; others are served."""

    error_type = "quota_exceeded"

    def __init__(self, message: str, field: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.field = field


class DatabaseError(RheostatError):
    """The database of clients and keys cannot be used."""

    status = 503
    error_type = "database_unavailable"


class DeadlineError(RheostatError):
    """The request's deadline passed before its turn came; nothing was run for it."""

    status = 504
    error_type = "deadline_exceeded"


class ModelNotReadyError(RheostatError):
    """The server is starting, stopping, or its worker has died."""

    status = 503
    error_type = "not_ready"


class InferenceError(RheostatError):
    """The model failed on an accepted request. The log has the traceback."""

    status = 500
    error_type = "inference_failed"


Form = Callable[[RheostatError, str], Response]
"""How one wire protocol spells an error, given the request's id."""


class Forms:
    """Which protocol answers where; elsewhere errors are spelled in Rheostat's own way."""

    def __init__(self, by_path: Mapping[str, Form]) -> None:
        """Keep the forms.

        Args:
            by_path: Of whole paths, and of all below those that end in a slash; the root stands
                for itself alone.
        """
        self._by_path = by_path

    def respond(self, error: Exception, scope: Scope) -> Response:
        """Return the response that tells a client of any exception.

        Args:
            error: Raised while answering.
            scope: Of the request. A route that learns only from the body which protocol it is
                asked in, puts that protocol's form into its state as ``form``.
        """
        state = scope["state"]
        form = state.get("form") or self._at(scope["path"])
        return form(translate(error), state["request_id"])

    def _at(self, path: str) -> Form:
        if path in self._by_path:
            return self._by_path[path]
        above = [p for p in self._by_path if p[1:].endswith("/") and path.startswith(p)]
        return self._by_path[max(above, key=len)] if above else own_form


def install(app: FastAPI, forms: Forms) -> None:
    """Answer all errors raised below the app's middleware."""

    async def answer(request: Request, error: Exception) -> Response:
        return forms.respond(error, request.scope)

    for kind in (
        RheostatError,
        InfeasibleBudgetError,
        RequestError,
        RequestValidationError,
        HTTPException,
    ):
        app.add_exception_handler(kind, answer)


def own_form(error: RheostatError, request_id: str) -> Response:
    """Spell an error as Rheostat's own protocol does."""
    body = {
        "type": error.error_type,
        "message": error.message,
        "field": error.field,
        "request_id": request_id,
        **error.extra(),
    }
    return JSONResponse({"error": body}, status_code=error.status, headers=dict(error.headers))


def translate(error: Exception) -> RheostatError:
    """Return the error of the tree for any exception; log the ones nobody foresaw."""
    match error:
        case InferenceError():
            log.error("%s", error.message)  # here the request is known; the worker has said why
            return error
        case RheostatError():
            return error
        case InfeasibleBudgetError():
            return InfeasibleError(str(error), f"budget.{error.field}", error.feasible)
        case RequestError():
            return InvalidRequestError(str(error), error.field)
        case RequestValidationError():
            return _invalid(error.errors(), None, "the request")
        case HTTPException():
            return _from_http(error)
    log.error("unexpected error", exc_info=error)
    # The exception's own text may hold paths or parts of other requests.
    return RheostatError("internal error; the server's log has it under the request id")


def invalid(error: ValidationError, model: type[BaseModel], whole: str) -> InvalidRequestError:
    """Return what a request body got wrong, naming field, value and what is allowed.

    Args:
        error: Raised by ``model``.
        model: Says which fields are allowed where an unknown one was found.
        whole: What messages call that which the model describes.
    """
    if (count := error.error_count()) > _MAX_FAULTS:
        return InvalidRequestError(f"{whole} has {count} faults; at most {_MAX_FAULTS} are named")
    return _invalid(error.errors(include_url=False), model, whole)


def shown(value: object) -> str:
    """Return a client's value as a message may repeat it: short, on one line."""
    if isinstance(value, str):
        value = value[: _MAX_SHOWN + 1]  # before repr, which would copy megabytes
    elif isinstance(value, list | dict | bytes):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _invalid(faults: Sequence[Any], model: _Model, whole: str) -> InvalidRequestError:
    details = [{"field": _path(f["loc"]), "message": _sentence(f, model, whole)} for f in faults]
    first = details[0]
    return InvalidRequestError(str(first["message"]), first["field"], details)


def _from_http(error: HTTPException) -> RheostatError:
    kinds: dict[int, type[RheostatError]] = {404: UnknownPathError, 405: MethodNotAllowedError}
    texts = {404: "nothing answers at this path", 405: "this path answers other methods"}
    found = kinds.get(error.status_code, InvalidRequestError)(
        texts.get(error.status_code, str(error.detail))
    )
    found.headers = error.headers or {}
    return found


def _path(loc: Sequence[int | str]) -> str | None:
    """Return ('images', 3) as ``images[3]``; None for the body as a whole."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.removeprefix(".")[:_MAX_SHOWN] or None


def _sentence(fault: ErrorDetails, model: _Model, whole: str) -> str:
    path, message = _path(fault["loc"]), fault["msg"]
    if fault["type"] == "json_invalid":
        return f"{whole} is not JSON: {fault['ctx']['error']}" if "ctx" in fault else message
    if fault["type"] == "extra_forbidden" and model is not None:
        return f"{path} is not a field; allowed: {', '.join(_fields(model, fault['loc'][:-1]))}"
    if message.startswith("Input should "):
        value, rule = shown(fault["input"]), message.removeprefix("Input should ")
        return f"{path}={value} must {rule}" if path else f"{whole} must {rule}, not {value}"
    return f"{path or whole}: {message}"


def _fields(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return the fields of the model that a location leads to."""
    for part in loc:
        if part in model.model_fields:  # and is no place in a list, and no option of several
            model = next(_models(model.model_fields[str(part)].annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a value of the type is, or is made of."""
    if options := get_args(annotation):
        for option in options:
            yield from _models(option)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)

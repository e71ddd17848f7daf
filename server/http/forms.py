"""The one place that turns errors into responses: what is raised is translated, then spelled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.types import Scope

from search.budget import InfeasibleBudgetError
from search.find import RequestError
from server.errors import (
    InfeasibleError,
    InferenceError,
    InvalidRequestError,
    MethodNotAllowedError,
    RheostatError,
    UnknownPathError,
    shown,
)
from server.http.routed import route_path

log = logging.getLogger(__name__)

_LONGEST_PATH = 80  # characters of where in a request a fault is
_MAX_FAULTS = 100  # named; a million unknown fields must not make a million messages
_Model = type[BaseModel] | None

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
        form = state.get("form") or self._at(route_path(scope))
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
    return text.removeprefix(".")[:_LONGEST_PATH] or None


def _sentence(fault: ErrorDetails, model: _Model, whole: str) -> str:
    path, message = _path(fault["loc"]), fault["msg"]
    if fault["type"] == "json_invalid":
        return f"{whole} is not JSON: {fault['ctx']['error']}" if "ctx" in fault else message
    if fault["type"] == "extra_forbidden" and model is not None:
        return f"{path} is not a field; allowed: {', '.join(_fields(model, fault['loc'][:-1]))}"
    if message.startswith(("Input should ", "String should ")):
        value, rule = shown(fault["input"]), message.partition(" should ")[2]
        return f"{path}={value} must {rule}" if path else f"{whole} must {rule}, not {value}"
    return f"{path or whole}: {message}"


def _fields(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return the fields of the model that a location leads to."""
    for part in loc:
        if part in model.model_fields:  # and is no place in a list, and no option of several
            model = next(_models(model.model_fields[str(part)].annotation), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)

"""How TEI's protocol spells errors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from server.api.documentation import Spelling
from server.api.tei.schema import TeiError
from server.errors import (
    ClientError,
    DeadlineError,
    InferenceError,
    InvalidRequestError,
    OverloadedError,
    RheostatError,
    UnavailableError,
)
from server.http.forms import Form


def form(error: RheostatError, _request_id: str, kind: str = "", status: int = 0) -> Response:
    """Spell an error as TEI does.

    Args:
        error: The error.
        kind: TEI's type, where only the route knows it.
        status: Likewise.
    """
    if error.status == 401:
        return Response(status_code=401, headers=dict(error.headers))
    match error:
        case OverloadedError() | DeadlineError():
            found = error.status, "Overloaded"
        case UnavailableError():
            found = error.status, "Unhealthy"
        case InferenceError():
            found = 424, "Backend"
        case ClientError():
            found = error.status, "Validation"
        case _:  # nobody foresaw it
            found = error.status, "Backend"
    body = {
        "error": error.message,
        "error_type": kind or found[1],
        "field": error.field,
        **error.extra(),
    }
    return JSONResponse(body, status_code=status or found[0], headers=dict(error.headers))


TEI = Spelling(form, TeiError)
EMPTY: Form = partial(form, kind="Empty", status=400)


def check_any(request: Request, field: str, given: Sequence[object]) -> None:
    """Refuse an empty list, for which TEI has an error of its own."""
    if isinstance(given, list) and not given:
        request.scope["state"]["form"] = EMPTY
        raise InvalidRequestError(f"{field} is empty; at least one is needed", field)

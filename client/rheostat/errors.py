"""What the client raises.

APIError
├── InvalidRequestError      4xx: the request is at fault
│   ├── InfeasibleBudgetError    no subnet meets the budget; ``feasible`` would be met
│   ├── UnknownModelError        no model of that name is served
│   └── AuthenticationError      401, 403: the key is missing, wrong or not allowed to
├── OverloadedError          429: the server is full; ``retry_after_s`` says when to come back
├── DeadlineError            504: the deadline passed before the request's turn came
├── ServerError              all else: the server failed, or is not ready
└── InvalidAnswerError       a success that is not what Rheostat answers

A server that cannot be reached is an ``httpx.TransportError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

_MAX_SHOWN = 200  # characters of an answer that is not ours


class APIError(Exception):
    """The server answered with an error.

    Attributes:
        status: HTTP status.
        type: Stable word for programs, such as ``infeasible_budget``.
        message: One sentence for people.
        field: Where in the request, for example ``budget.flops``.
        feasible: Of a budget that cannot be met, the nearest value of ``field`` that can.
        request_id: To be found in the server's log.
        retry_after_s: When to come back, if the server said so.
    """

    def __init__(
        self,
        status: int,
        type: str,  # as the server calls it
        message: str,
        field: str | None = None,
        feasible: float | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{message} (status {status}, request {request_id})")
        self.status = status
        self.type = type
        self.message = message
        self.field = field
        self.feasible = feasible
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class InvalidRequestError(APIError):
    """The request is at fault; sending it again will not help."""


class InfeasibleBudgetError(InvalidRequestError):
    """No subnet meets the budget."""


class UnknownModelError(InvalidRequestError):
    """No model of that name is served."""


class AuthenticationError(InvalidRequestError):
    """The key is missing, wrong or not allowed to."""


class OverloadedError(APIError):
    """The server is full, or the client has used up its share."""


class DeadlineError(APIError):
    """The deadline passed before the request's turn came."""


class ServerError(APIError):
    """The server failed, or is not ready."""


class InvalidAnswerError(APIError):
    """The answer cannot be read: something else is at that address, or another version."""


_BY_TYPE: Mapping[str, type[APIError]] = {
    "infeasible_budget": InfeasibleBudgetError,
    "unknown_model": UnknownModelError,
}
_BY_STATUS: Mapping[int, type[APIError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    429: OverloadedError,
    504: DeadlineError,
}
_OURS = {"model_not_found": "unknown_model"}  # OpenAI's word


def error_of(response: httpx.Response) -> APIError:
    """Return the error that a response tells of, in our own form or in OpenAI's."""
    found = _fields(response)
    code = str(found.get("code") or found.get("type") or "unknown")
    kind = _OURS.get(code, code)
    status = response.status_code
    by_status = _BY_STATUS.get(status, InvalidRequestError if status < 500 else ServerError)
    return _BY_TYPE.get(kind, by_status)(
        status,
        kind,
        str(found.get("message") or response.text[:_MAX_SHOWN] or response.reason_phrase),
        found.get("field") or found.get("param"),
        found.get("feasible"),
        response.headers.get("x-request-id"),
        retry_after_s(response.headers),
    )


def invalid_answer(response: httpx.Response, fault: ValueError) -> InvalidAnswerError:
    """Return the error for a success that cannot be read."""
    request = response.request
    return InvalidAnswerError(
        response.status_code,
        "invalid_answer",
        f"{request.method} {request.url.path} was not answered as Rheostat does: {fault}",
        request_id=response.headers.get("x-request-id"),
    )


def _fields(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:  # a proxy's page
        return {}
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def retry_after_s(headers: httpx.Headers) -> float | None:
    """Return how long the server asks to wait; None if it does not say, or not intelligibly."""
    try:
        if (fine := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(fine) / 1000)
        if (given := headers.get("retry-after")) is None:
            return None
        if given.strip().isdecimal():
            return float(given)
        # A date; by the server's own clock, whatever ours says.
        until, now = parsedate_to_datetime(given), parsedate_to_datetime(headers["date"])
        return max(0.0, (until - now).total_seconds())
    except (ValueError, KeyError, TypeError):
        return None

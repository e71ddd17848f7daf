"""What the Python client raises, and when it tries again.

APIError
├── InvalidRequestError      4xx: the request is at fault
│   ├── InfeasibleBudgetError    no subnet meets the budget; ``feasible`` would be met
│   ├── UnknownModelError        no model of that name is served
│   └── AuthenticationError      401, 403: the key is missing, wrong or not allowed to
├── OverloadedError          429: the server is full; ``retry_after_s`` says when to come back
├── DeadlineError            504: the deadline passed before the request's turn came
└── ServerError              all else: the server failed, or is not ready

A server that cannot be reached is an ``httpx.TransportError``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
_PASSING = (429, 502, 503)  # 500 and 504 would most likely come again


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


@dataclass(frozen=True, slots=True)
class Retries:
    """When to send a request again; every request of this client may be.

    Attributes:
        most: Times; 0 for never.
        max_wait_s: A server that asks for a longer wait is not asked again.
        first_s: Wait before the first repetition where the server names none; it then doubles.
        longest_s: To which it grows.
    """

    most: int = 2
    max_wait_s: float = 60.0
    first_s: float = 0.5
    longest_s: float = 8.0

    def wait_s(
        self,
        outcome: httpx.Response | httpx.TransportError,
        attempt: int,
        rng: Callable[[], float],
    ) -> float:
        """Return how long to wait before the next attempt.

        Args:
            outcome: Of the last one.
            attempt: Its number, from 0.
            rng: Returns numbers from 0 to 1; waits that the server does not name are shortened by
                up to a half, so that clients do not return together.

        Raises:
            APIError: If there shall be no other attempt.
            httpx.TransportError: Likewise.
        """
        backoff_s: float = min(self.longest_s, self.first_s * 2**attempt) * (1 - rng() / 2)
        if isinstance(outcome, httpx.TransportError):
            is_late = isinstance(outcome, httpx.ReadTimeout | httpx.WriteTimeout)
            if attempt >= self.most or is_late:
                raise outcome
            return backoff_s
        error = error_of(outcome)
        should = outcome.headers.get("x-should-retry")
        may = should == "true" or (should != "false" and error.status in _PASSING)
        wait_s = backoff_s if error.retry_after_s is None else error.retry_after_s
        if not may or attempt >= self.most or wait_s > self.max_wait_s:
            raise error
        return wait_s

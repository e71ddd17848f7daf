"""When the client sends a request again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from rheostat.errors import error_of

_PASSING = (429, 502, 503)  # 500 and 504 would most likely come again


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

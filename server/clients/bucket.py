"""The arithmetic of quotas. Pure: time is passed in.

A quota is kept as what was spent of it and when that was true, so that a limit can be changed
without touching what was spent. A rate gives back what was spent as time passes (a token bucket,
seen from the other side); a daily quota gives all of it back at midnight, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

_DAY_S = 86_400
_ROUNDING = 1e-9  # of the capacity: sums of floats must not refuse what is exactly there


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be spent.

    Attributes:
        capacity: At once, after a pause; or per day.
        rate: Given back each second; None for a daily limit.
    """

    capacity: float
    rate: float | None = None


@dataclass(slots=True)
class Meter:
    """What was spent of a limit.

    Attributes:
        spent: As of ``since``; may exceed the capacity where that was lowered.
        since: Unix time, seconds.
    """

    spent: float = 0.0
    since: float = 0.0

    def refill(self, limit: Limit, now: float) -> None:
        """Give back what has become free.

        A clock that was set back gives nothing, and counts on from there: waiting until it is again
        as late as it was would shut a client out for as long as it had been wrong.
        """
        if now > self.since:
            if limit.rate is not None:
                self.spent = max(0.0, self.spent - limit.rate * (now - self.since))
            elif now // _DAY_S > self.since // _DAY_S:
                self.spent = 0.0
        self.since = now

    def left(self, limit: Limit) -> float:
        """Return what can be spent, as of ``since``."""
        return max(0.0, limit.capacity - self.spent)

    def wait_s(self, limit: Limit, cost: float, now: float) -> float:
        """Return the seconds until a cost can be spent: 0 for now, infinity for never."""
        if cost > limit.capacity:
            return inf
        self.refill(limit, now)
        missing = self.spent + cost - limit.capacity
        if missing <= _ROUNDING * limit.capacity:
            return 0.0
        if limit.rate is None:
            return _DAY_S - self.since % _DAY_S
        return missing / limit.rate

    def spend(self, cost: float) -> None:
        """Spend, or with a negative cost give back."""
        self.spent = max(0.0, self.spent + cost)

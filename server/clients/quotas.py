"""Charging clients: what each may use, and what they are told when it is used up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

from server.clients.bucket import Limit
from server.clients.caller import Caller
from server.clients.counters import ClientCounters
from server.clients.profile import Quota, QuotaName
from server.errors import InvalidRequestError, QuotaExceededError


class Charge(NamedTuple):
    """What is to be spent of one quota."""

    limit: Limit
    cost: float


Charges = Mapping[QuotaName, Charge]


class Refusal(NamedTuple):
    """Why nothing was spent.

    Attributes:
        quota: That has too little left.
        wait_s: Until it will have enough, if nobody else spends it.
    """

    quota: QuotaName
    wait_s: float


class Meters(Protocol):
    """Where what clients have spent is kept: in this process, or leased from a database."""

    async def start(self) -> None:
        """Begin to serve."""

    async def close(self) -> None:
        """Write or give back what is held."""

    def keep(self, clients: Collection[str]) -> None:
        """Forget all clients but these."""

    async def spend(self, client: str, charges: Charges) -> Refusal | None:
        """Spend from all quotas, or from none and say why. No cost exceeds its capacity."""


class Quotas:
    """Charges callers for requests and FLOPs; those without a profile pay nothing.

    What was charged is not given back when a request fails later.
    """

    def __init__(self, meters: Meters, counters: ClientCounters) -> None:
        self._meters = meters
        self._counters = counters

    async def charge_request(self, caller: Caller) -> None:
        """Charge one request.

        Raises:
            QuotaExceededError: If none is left.
        """
        if caller.profile is None:
            return
        rate = caller.profile.quota.requests_per_s
        if rate is not None:
            capacity = caller.profile.quota.request_burst or max(1.0, rate)
            await self._spend(caller, {QuotaName.REQUESTS: Charge(Limit(capacity, rate), 1.0)})
        self._counters.charged(caller.client, num_requests=1)

    async def charge_flops(self, caller: Caller, flops: float) -> None:
        """Charge the FLOPs of a request, once its subnet is known and before it waits.

        Raises:
            QuotaExceededError: If not enough are left.
            InvalidRequestError: If they never would be.
        """
        if caller.profile is None:
            return
        charges = {
            name: Charge(limit, flops) for name, limit in _flops_limits(caller.profile.quota)
        }
        for name, (limit, _) in charges.items():
            if flops > limit.capacity:
                self._counters.refused(caller.client, name)
                raise InvalidRequestError(
                    f"the request takes {flops:.6g} FLOPs and the client never has more than "
                    f"{limit.capacity:.6g} (quota {name}); lower its budget or send fewer inputs",
                    "budget.flops",
                )
        if charges:
            await self._spend(caller, charges)
        self._counters.charged(caller.client, flops=flops)

    async def _spend(self, caller: Caller, charges: Charges) -> None:
        refusal = await self._meters.spend(caller.client, charges)
        if refusal is None:
            return
        quota, wait_s = refusal
        self._counters.refused(caller.client, quota)
        limit, cost = charges[quota]
        what = "requests" if quota is QuotaName.REQUESTS else f"FLOPs, {cost:.6g} needed"
        allowed = f"{limit.capacity:.6g} a day" if limit.rate is None else f"{limit.rate:.6g}/s"
        raise QuotaExceededError(
            f"quota.{quota}: no {what} left of {allowed}; more in {wait_s:.3g} s",
            f"quota.{quota}",
            wait_s,
        )


def _flops_limits(quota: Quota) -> list[tuple[QuotaName, Limit]]:
    found = []
    if quota.flops_per_s is not None:
        capacity = quota.flops_burst or quota.flops_per_s
        found.append((QuotaName.FLOPS, Limit(capacity, quota.flops_per_s)))
    if quota.flops_per_day is not None:
        found.append((QuotaName.DAILY_FLOPS, Limit(quota.flops_per_day)))
    return found


def slowest(refusals: list[Refusal]) -> Refusal | None:
    """Return the refusal that lasts longest; None if there is none."""
    return max(refusals, key=lambda refusal: refusal.wait_s, default=None)

"""Quotas of several replicas: each leases slices of them from one database, ahead of need.

A slice is what a tenth of a second gives back, or a thousandth of a day's quota. A request spends
from the slice that its replica holds; only where that does not reach does it wait for the next.
One transaction at a time leases for all clients that need something, so the load on the database
follows time, not requests. What a replica leased and did not spend within a second goes back. No
replica spends what it has not leased: over any stretch of time all together exceed a quota by no
more than the slices they held when it began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from server.clients.bucket import Limit, Meter
from server.clients.ledger import Ask, Grant, Ledger, MeterKey
from server.clients.patience import patience
from server.clients.profile import LEASE_S, QuotaName
from server.clients.quotas import Charges, Refusal, slowest
from server.errors import DatabaseError

log = logging.getLogger(__name__)

_DAILY_SLICES = 1000
_LEAST_PAUSE_S = 0.02  # before the database is asked again for what it did not have
_IDLE_S = 1.0  # after which a slice goes back
_ANSWER_S = 2.0  # the database has to answer within
_RETRY_S = 0.5  # while it does not


@dataclass(slots=True)
class _Lease:
    """What this replica holds of one quota.

    Attributes:
        limit: Of the quota.
        left: To be spent; below 0 what was spent of a daily quota while the database was away.
        used: When something was last spent, on the replica's timer.
        rests_until: Before then the database is not asked again.
        waiting: Costs of the requests that wait for the next slice.
        known: What the database last said of the whole quota; spent from while it is away.
    """

    limit: Limit
    left: float = 0.0
    used: float = 0.0
    rests_until: float = 0.0
    waiting: list[float] = field(default_factory=list)
    known: Meter = field(default_factory=Meter)

    @property
    def slice(self) -> float:
        """What is leased at a time, beyond what is waited for."""
        rate, capacity = self.limit.rate, self.limit.capacity
        return capacity / _DAILY_SLICES if rate is None else min(capacity, LEASE_S * rate)

    def wait_s(self, cost: float, now: float, elapsed: float) -> float:
        """Return the seconds until asking for a cost may be of use; at most 0 for now.

        What is known of the whole quota is what the database said last and what has been given
        back since; other replicas can only have taken from that.

        Args:
            cost: To be spent.
            now: Unix time.
            elapsed: On the replica's timer.
        """
        missing = cost - max(0.0, self.left)
        return max(self.rests_until - elapsed, self.known.wait_s(self.limit, missing, now))


class LeasedMeters:
    """Spends from leases. While the database is away, from what was last known of each quota."""

    def __init__(
        self, ledger: Ledger, clock: Callable[[], float], timer: Callable[[], float]
    ) -> None:
        """Create meters that hold nothing.

        Args:
            ledger: Of all replicas.
            clock: Returns Unix time in seconds; replicas need not agree on it.
            timer: Returns seconds since whenever; nobody sets it.
        """
        self._ledger = ledger
        self._clock = clock
        self._timer = timer
        self._leases: dict[MeterKey, _Lease] = {}
        self._wanted: dict[MeterKey, _Lease] = {}
        self._is_wanted = asyncio.Event()
        self._renewed: asyncio.Future[None] | None = None
        self._is_away = False
        self._leasing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to lease."""
        self._leasing = asyncio.create_task(self._lease_always())

    async def close(self) -> None:
        """Give everything back."""
        if self._leasing is not None:
            self._leasing.cancel()
            with suppress(asyncio.CancelledError):
                await self._leasing
        self._wanted = {key: lease for key, lease in self._leases.items() if lease.left}
        await self._renew(is_last=True)

    def keep(self, clients: Collection[str]) -> None:
        """Forget what is held for all others."""
        self._leases = {key: one for key, one in self._leases.items() if key[0] in clients}

    async def spend(self, client: str, charges: Charges) -> Refusal | None:
        """Spend from all quotas, or from none and say why."""
        leases = {name: self._lease((client, name), limit) for name, (limit, _) in charges.items()}
        while True:
            now, elapsed = self._clock(), self._timer()
            if self._is_away:
                return self._spend_unleased(leases, charges, now)
            short = [name for name, (_, cost) in charges.items() if leases[name].left < cost]
            if not short:
                break
            refusals = [
                Refusal(name, wait_s)
                for name in short
                if (wait_s := leases[name].wait_s(charges[name].cost, now, elapsed)) > 0
            ]
            if refusals:
                return slowest(refusals)
            for name in short:
                leases[name].waiting.append(charges[name].cost)
                self._want((client, name), leases[name])
            await self._next_renewal()
        for name, (_, cost) in charges.items():
            lease = leases[name]
            lease.left -= cost
            lease.used = elapsed
            if lease.left < lease.slice / 2 and lease.wait_s(lease.slice, now, elapsed) <= 0:
                self._want((client, name), lease)
        return None

    def _spend_unleased(
        self, leases: dict[QuotaName, _Lease], charges: Charges, now: float
    ) -> Refusal | None:
        refusals = [
            Refusal(name, wait_s)
            for name, (limit, cost) in charges.items()
            if (wait_s := leases[name].known.wait_s(limit, cost, now)) > 0
        ]
        if refusals:
            return slowest(refusals)
        for name, (limit, cost) in charges.items():
            leases[name].known.spend(cost)
            if limit.rate is None:
                leases[name].left -= cost  # told to the database once it is back
        return None

    def _lease(self, key: MeterKey, limit: Limit) -> _Lease:
        lease = self._leases.setdefault(key, _Lease(limit))
        if lease.limit != limit:
            lease.limit, lease.rests_until = limit, 0.0
        return lease

    def _want(self, key: MeterKey, lease: _Lease) -> None:
        self._wanted[key] = lease
        self._is_wanted.set()

    async def _next_renewal(self) -> None:
        """Wait until everything that is wanted now has been asked for."""
        if self._renewed is None:
            self._renewed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._renewed)

    async def _lease_always(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_S):
                    await self._is_wanted.wait()
            elapsed = self._timer()
            for key, lease in self._leases.items():
                if lease.left and elapsed - lease.used > _IDLE_S:
                    self._wanted.setdefault(key, lease)
            await self._renew()
            if self._is_away:
                await asyncio.sleep(_RETRY_S)

    async def _renew(self, is_last: bool = False) -> None:
        """Ask the database once, for everything that is wanted."""
        self._is_wanted.clear()
        renewed, self._renewed = self._renewed, None
        wanted, self._wanted = self._wanted, {}
        asks = {key: self._ask(lease, is_last) for key, lease in wanted.items()}
        grants: dict[MeterKey, Grant] = {}
        try:
            if asks or self._is_away:
                async with patience(_ANSWER_S):
                    grants = await self._ledger.lease(asks)
            self._set_away(None)
        except Exception as error:  # whatever it is, those who wait must go on
            if not isinstance(error, DatabaseError | TimeoutError):
                log.exception("leasing failed")
            self._set_away(error)
            for key, ask in asks.items():
                wanted[key].left += ask.given_back
        finally:
            for key, grant in grants.items():
                self._take(wanted[key], grant)
            if renewed is not None and not renewed.done():
                renewed.set_result(None)

    def _ask(self, lease: _Lease, is_last: bool) -> Ask:
        """Return what to ask for a lease; what is held is spent from meanwhile."""
        costs, lease.waiting = lease.waiting, []
        if is_last or (not costs and self._timer() - lease.used > _IDLE_S):
            given_back, lease.left = lease.left, 0.0
            return Ask(lease.limit, 0.0, 0.0, given_back)
        given_back = min(0.0, lease.left)
        lease.left -= given_back
        least = max(0.0, min(costs, default=0.0) - lease.left)
        most = max(least, sum(costs) - lease.left) + lease.slice
        return Ask(lease.limit, least, most, given_back)

    def _take(self, lease: _Lease, grant: Grant) -> None:
        lease.left += grant.amount
        lease.known = Meter(grant.spent, self._clock())
        lease.rests_until = self._timer() + _LEAST_PAUSE_S if grant.wait_s else 0.0

    def _set_away(self, error: Exception | None) -> None:
        if error is not None and not self._is_away:
            log.warning("quotas hold on each replica by itself while the database is away")
        elif error is None and self._is_away:
            log.info("quotas hold across replicas again")
        self._is_away = error is not None

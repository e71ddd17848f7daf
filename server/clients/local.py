"""Quotas of one process: exact, in memory, written down every second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress

from server.clients.bucket import Meter
from server.clients.ledger import Ledger, MeterKey
from server.clients.profile import QuotaName
from server.clients.quotas import Charges, Refusal, slowest
from server.errors import DatabaseError

log = logging.getLogger(__name__)

_WRITE_S = 1.0  # what a crash may forget


class LocalMeters:
    """Counts here; what was spent survives a restart."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        """Create meters that have spent nothing.

        Args:
            ledger: Read once, at the start, and written.
            clock: Returns Unix time in seconds.
        """
        self._ledger = ledger
        self._clock = clock
        self._meters: dict[MeterKey, Meter] = {}
        self._unwritten: set[MeterKey] = set()
        self._writing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what was spent before, and begin to write.

        Raises:
            DatabaseError: If it cannot be read.
        """
        self._meters = await self._ledger.read()
        self._writing = asyncio.create_task(self._write_always())

    async def close(self) -> None:
        """Write a last time."""
        if self._writing is not None:
            self._writing.cancel()
            with suppress(asyncio.CancelledError):
                await self._writing
        await self._write()

    async def spend(self, client: str, charges: Charges) -> Refusal | None:
        """Spend from all quotas, or from none and say why."""
        now = self._clock()
        meters = {name: self._meter((client, name), now) for name in charges}
        refusals = [
            Refusal(name, wait_s)
            for name, (limit, cost) in charges.items()
            if (wait_s := meters[name].wait_s(limit, cost, now)) > 0
        ]
        if refusals:
            return slowest(refusals)
        for name, (_, cost) in charges.items():
            meters[name].spend(cost)
            self._unwritten.add((client, name))
        return None

    def keep(self, clients: Collection[str]) -> None:
        """Forget what all others have spent."""
        self._meters = {key: one for key, one in self._meters.items() if key[0] in clients}
        self._unwritten &= self._meters.keys()

    def _meter(self, key: tuple[str, QuotaName], now: float) -> Meter:
        return self._meters.setdefault(key, Meter(0.0, now))

    async def _write_always(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_S)
            await self._write()

    async def _write(self) -> None:
        if not self._unwritten:
            return
        keys, self._unwritten = self._unwritten, set()
        try:
            await self._ledger.write(
                {key: self._meters[key] for key in keys if key in self._meters}
            )
        except DatabaseError as error:
            log.warning("what clients have spent is not written: %s", error)
            self._unwritten |= keys

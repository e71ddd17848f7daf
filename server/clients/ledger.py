"""What was spent of quotas, in the database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, or_, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clients.bucket import Limit, Meter
from server.clients.database import Database
from server.clients.tables import meters

MeterKey = tuple[str, str]
"""A client's id and the name of a quota."""

_MAX_ROWS = 500  # of one statement


class Ask(NamedTuple):
    """What a replica wants of one quota.

    Attributes:
        limit: Of the quota, as the replica knows it.
        least: Less would be of no use.
        most: It takes no more.
        given_back: Leased before and not spent; spent without a lease if negative.
    """

    limit: Limit
    least: float
    most: float
    given_back: float


class Grant(NamedTuple):
    """What a replica gets.

    Attributes:
        amount: To be spent without asking; 0 if there is less than the least.
        wait_s: Until the least will be there; 0 if it was.
        spent: Of the whole quota, by all replicas, leases included.
        now: By the database's clock, Unix time.
    """

    amount: float
    wait_s: float
    spent: float
    now: float

    @classmethod
    def of(cls, meter: Meter, ask: Ask, now: float) -> Grant:
        """Take from a meter what is asked for, as far as it is there."""
        meter.refill(ask.limit, now)
        meter.spend(-ask.given_back)
        wait_s = meter.wait_s(ask.limit, ask.least, now)
        amount = 0.0
        if wait_s == 0:
            amount = max(ask.least, min(ask.most, meter.left(ask.limit)))
            meter.spend(amount)
        return cls(amount, wait_s, meter.spent, now)


class Ledger:
    """Rows of client, quota, what was spent of it and when that was true."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> dict[MeterKey, Meter]:
        """Return all meters.

        Raises:
            DatabaseError: If the database is away; so do all others.
        """
        async with self._database.reading() as connection:
            rows = await connection.execute(select(meters))
            return {(row.client, row.quota): Meter(row.spent, row.since) for row in rows}

    async def write(self, changed: Mapping[MeterKey, Meter]) -> None:
        """Store meters in place of what is there."""
        async with self._database.writing() as connection:
            await self._put(connection, changed)

    async def lease(self, asks: Mapping[MeterKey, Ask]) -> dict[MeterKey, Grant]:
        """Take slices of quotas, each row locked until all are taken.

        SQLite locks all of them: there whoever writes is alone. The clock is the database's, so
        replicas need not agree on the time; SQLite's is that of the one machine.
        """
        async with self._database.writing() as connection:
            found = await self._locked(connection, asks.keys())
            missing = asks.keys() - found.keys()
            if missing:
                # Inserted unless another replica was faster, then locked: so nobody starts anew.
                new = self._insert().values([_row(key, Meter()) for key in sorted(missing)])
                await connection.execute(new.on_conflict_do_nothing())
                found |= await self._locked(connection, missing)
            now: float = (await connection.execute(text(self._clock))).scalar_one()
            grants = {key: Grant.of(found[key], ask, now) for key, ask in asks.items()}
            await self._put(connection, found)
        return grants

    def _insert(self) -> postgresql.Insert | sqlite.Insert:
        if self._database.is_shared:
            return postgresql.insert(meters)
        return sqlite.insert(meters)

    @property
    def _clock(self) -> str:
        if self._database.is_shared:
            return "SELECT extract(epoch FROM clock_timestamp())::float8"
        return "SELECT (julianday('now') - 2440587.5) * 86400.0"

    async def _locked(
        self, connection: AsyncConnection, keys: Collection[MeterKey]
    ) -> dict[MeterKey, Meter]:
        """Read rows and lock them, in one order so that no two replicas wait for each other."""
        if not keys:
            return {}
        wanted = or_(*(_is(key) for key in keys))
        ordered = select(meters).where(wanted).order_by(meters.c.client, meters.c.quota)
        rows = await connection.execute(ordered.with_for_update())
        return {(row.client, row.quota): Meter(row.spent, row.since) for row in rows}

    async def _put(self, connection: AsyncConnection, changed: Mapping[MeterKey, Meter]) -> None:
        rows = [_row(key, meter) for key, meter in sorted(changed.items(), key=lambda x: x[0])]
        for start in range(0, len(rows), _MAX_ROWS):
            new = self._insert().values(rows[start : start + _MAX_ROWS])
            await connection.execute(
                new.on_conflict_do_update(
                    index_elements=[meters.c.client, meters.c.quota],
                    set_={"spent": new.excluded.spent, "since": new.excluded.since},
                )
            )


def _is(key: MeterKey) -> ColumnElement[bool]:
    return and_(meters.c.client == key[0], meters.c.quota == key[1])


def _row(key: MeterKey, meter: Meter) -> dict[str, object]:
    return {"client": key[0], "quota": key[1], "spent": meter.spent, "since": meter.since}

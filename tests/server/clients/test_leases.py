from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from server.clients.bucket import Limit, Meter
from server.clients.database import Database
from server.clients.leases import LeasedMeters
from server.clients.ledger import Ask, Grant, Ledger, MeterKey
from server.clients.profile import QuotaName
from server.clients.quotas import Charge, Refusal
from server.errors import DatabaseError
from tests.server.samples import run

RATE = Limit(capacity=20, rate=10)
DAILY = Limit(capacity=1000)
NAME = QuotaName.REQUESTS


class FakeLedger(Ledger):
    """Keeps meters in memory, on a clock that is moved by hand, and counts how often it is asked.

    Attributes:
        now: Seconds, as they pass.
        set_by: How far all wall clocks have been set, the ledger's too.
        num_asked: Transactions.
        is_away: Whether it fails.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.set_by = 0.0
        self.num_asked = 0
        self.is_away = False
        self.meters: dict[MeterKey, Meter] = {}

    async def lease(self, asks: Mapping[MeterKey, Ask]) -> dict[MeterKey, Grant]:
        await asyncio.sleep(0)  # as a database, not at once
        if self.is_away:
            raise DatabaseError("away")
        self.num_asked += bool(asks)
        return {
            key: Grant.of(self.meters.setdefault(key, Meter()), ask, self.clock())
            for key, ask in asks.items()
        }

    def clock(self) -> float:
        return self.now + self.set_by


@asynccontextmanager
async def replicas(ledger: FakeLedger, count: int) -> AsyncIterator[list[LeasedMeters]]:
    found = [LeasedMeters(ledger, ledger.clock, lambda: ledger.now) for _ in range(count)]
    for one in found:
        await one.start()
    try:
        yield found
    finally:
        for one in found:
            await one.close()


async def spend(meters: LeasedMeters, limit: Limit = RATE, cost: float = 1) -> Refusal | None:
    refusal = await meters.spend("shop", {NAME: Charge(limit, cost)})
    for _ in range(5):  # what was leased ahead arrives
        await asyncio.sleep(0)
    return refusal


def test_replicas_together_spend_what_one_bucket_gives() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        async with replicas(ledger, 3) as found:
            served = 0
            for _ in range(1000):  # ten seconds, each replica offered 100 a second
                ledger.now += 0.01
                served += sum([await spend(one) is None for one in found])
            assert served <= 20 + 10 * 10
            assert served >= 0.95 * (20 + 10 * 10)

    run(scenario())


def test_the_database_is_asked_by_time_and_not_by_requests() -> None:
    async def scenario() -> None:
        limit, ledger = Limit(1000, 1000), FakeLedger()
        async with replicas(ledger, 1) as (one,):
            for _ in range(2000):  # two seconds
                ledger.now += 0.001
                assert await spend(one, limit) is None
            assert ledger.num_asked <= 2 / 0.05 + 2

    run(scenario())


def test_only_the_first_of_many_requests_waits_for_the_database() -> None:
    async def scenario() -> None:
        limit, ledger = Limit(100, 100), FakeLedger()
        async with replicas(ledger, 1) as (one,):
            assert await spend(one, limit) is None
            for _ in range(30):
                spending = one.spend("shop", {NAME: Charge(limit, 1)})
                with pytest.raises(StopIteration) as ended:  # done without a wait
                    spending.send(None)
                assert ended.value.value is None
                for _ in range(5):
                    await asyncio.sleep(0)
                ledger.now += 0.05

    run(scenario())


def test_requests_that_come_together_are_leased_for_together() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        async with replicas(ledger, 1) as (one,):
            refusals = await asyncio.gather(*(spend(one) for _ in range(30)))
            assert sum(refusal is None for refusal in refusals) == 20
            assert ledger.num_asked <= 4

    run(scenario())


def test_a_refusal_is_remembered_until_the_quota_may_have_enough() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        async with replicas(ledger, 2) as (one, other):
            assert await spend(one, cost=20) is None
            refusal = await spend(other, cost=5)
            assert refusal is not None
            assert refusal.quota is NAME
            assert refusal.wait_s == pytest.approx(0.5)
            asked = ledger.num_asked
            for _ in range(10):
                assert await spend(other, cost=5) is not None
            assert ledger.num_asked == asked
            ledger.now += 0.5
            assert await spend(other, cost=5) is None

    run(scenario())


@pytest.mark.parametrize("is_away", [False, True])
def test_clocks_that_are_set_shut_nobody_out(is_away: bool) -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        async with replicas(ledger, 1) as (one,):
            for set_by in (0.0, 86_400.0, -86_400.0):
                ledger.set_by = set_by
                while (refusal := await spend(one)) is None:
                    pass
                assert refusal.wait_s <= 0.1  # of one request, at 10 a second
                ledger.is_away = is_away
                ledger.now += 1
                assert [await spend(one) for _ in range(5)] == [None] * 5
            while await spend(one, DAILY, 400) is None:
                pass
            ledger.set_by = 86_400.0
            assert await spend(one, DAILY, 400) is None
            ledger.set_by = -86_400.0
            refusal = await spend(one, DAILY, 800)
            assert refusal is not None
            assert refusal.wait_s <= 86_400

    run(scenario())


def test_small_costs_do_not_wait_for_what_a_large_one_needs() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        async with replicas(ledger, 1) as (one,):
            assert await spend(one, cost=15) is None
            ledger.now += 0.1
            assert await spend(one, cost=15) is not None
            ledger.now += 0.1
            assert await spend(one, cost=2) is None

    run(scenario())


def test_what_is_leased_and_not_spent_goes_back() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        meters = LeasedMeters(ledger, ledger.clock, lambda: ledger.now)
        await meters.start()
        assert await spend(meters, DAILY, 10) is None
        (meter,) = ledger.meters.values()
        assert meter.spent > 10
        await meters.close()
        assert meter.spent == 10

    run(scenario())


def test_while_the_database_is_away_quotas_hold_by_what_was_known() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        async with replicas(ledger, 1) as (one,):
            assert await spend(one, DAILY, 900) is None
            ledger.is_away = True
            assert await spend(one, DAILY, 90) is None
            refusal = await spend(one, DAILY, 20)
            assert refusal is not None
            assert refusal.wait_s == 86_400 - 1000
            assert await spend(one, DAILY, 1000) == refusal
            ledger.is_away = False
            await one._renew()
            refusal = await spend(one, DAILY, 20)  # what was spent meanwhile is told
            assert refusal is not None
            assert refusal.wait_s == 86_400 - 1000
        (meter,) = ledger.meters.values()
        assert meter.spent == pytest.approx(990)

    run(scenario())


def test_leases_of_forgotten_clients_are_dropped() -> None:
    async def scenario() -> None:
        ledger = FakeLedger()
        async with replicas(ledger, 1) as (one,):
            await spend(one)
            one.keep({"shop"})
            assert one._leases
            one.keep(set())
            assert not one._leases

    run(scenario())


def test_postgres_grants_each_token_once(postgres_url: str) -> None:
    key = ("shop", "requests_per_s")
    ask = Ask(Limit(100), 3.0, 3.0, 0.0)

    async def scenario() -> None:
        databases = [Database(postgres_url) for _ in range(3)]
        await databases[0].migrate()
        ledgers = [Ledger(database) for database in databases]

        async def lease(ledger: Ledger) -> float:
            grants = [(await ledger.lease({key: ask}))[key] for _ in range(20)]
            return sum(grant.amount for grant in grants)

        amounts = await asyncio.gather(*map(lease, ledgers))
        assert sum(amounts) == 99  # 33 slices of 3; the last 1 is less than the least
        assert (await ledgers[0].read())[key].spent == 99
        grant = (await ledgers[1].lease({key: Ask(Limit(100), 0.0, 0.0, 9.0)}))[key]
        assert (grant.amount, grant.spent) == (0.0, 90.0)
        for database in databases:
            await database.close()

    run(scenario())

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from server.clients.caller import ANYONE, Caller
from server.clients.counters import ClientCounters
from server.clients.database import Database
from server.clients.ledger import Ledger
from server.clients.local import LocalMeters
from server.clients.profile import ClientProfile, Quota
from server.clients.quotas import Quotas
from server.errors import InvalidRequestError, QuotaExceededError
from tests.server.samples import run

NOON = 43_200.0


class Bench:
    """Quotas of one process on a clock that stands still."""

    def __init__(self, folder: Path) -> None:
        self.now = NOON
        self.database = Database(f"sqlite:///{folder / 'clients.db'}")
        self.registry = CollectorRegistry()
        self.counters = ClientCounters(self.registry)
        self.counters.watch(["shop"])
        self.meters = LocalMeters(Ledger(self.database), lambda: self.now)
        self.quotas = Quotas(self.meters, self.counters)

    async def start(self) -> None:
        await self.database.migrate()
        await self.meters.start()

    async def close(self) -> None:
        await self.meters.close()
        await self.database.close()

    def value(self, sample: str) -> float:
        lines = generate_latest(self.registry).decode().splitlines()
        (found,) = (line.split()[-1] for line in lines if line.startswith(sample + " "))
        return float(found)


def caller(**quota: float) -> Caller:
    return Caller("shop", profile=ClientProfile(quota=Quota(**quota)))


async def refusal(bench: Bench, who: Caller, flops: float | None = None) -> QuotaExceededError:
    with pytest.raises(QuotaExceededError) as caught:
        await (
            bench.quotas.charge_request(who)
            if flops is None
            else bench.quotas.charge_flops(who, flops)
        )
    return caught.value


def test_requests_are_charged_exactly_and_the_refusal_says_when_to_come_back(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.start()
        who = caller(requests_per_s=4, request_burst=6)
        for _ in range(6):
            await bench.quotas.charge_request(who)
        error = await refusal(bench, who)
        assert (error.status, error.field) == (429, "quota.requests_per_s")
        assert error.headers == {"Retry-After": "1", "retry-after-ms": "250"}
        assert "no requests left of 4/s; more in 0.25 s" in error.message
        bench.now += 0.25
        await bench.quotas.charge_request(who)
        await refusal(bench, who)
        assert bench.value('rheostat_client_requests_total{client="shop"}') == 7
        quota = 'rheostat_quota_refusals_total{client="shop",quota="requests_per_s"}'
        assert bench.value(quota) == 2
        await bench.close()

    run(scenario())


def test_flops_are_charged_to_both_of_their_quotas_or_to_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.start()
        who = caller(flops_per_s=100, flops_per_day=250)
        await bench.quotas.charge_flops(who, 100)
        assert (await refusal(bench, who, 100)).field == "quota.flops_per_s"
        bench.now += 1
        await bench.quotas.charge_flops(who, 100)
        bench.now += 1
        error = await refusal(bench, who, 100)
        assert error.field == "quota.flops_per_day"
        assert error.retry_after_s == NOON - 2
        await bench.quotas.charge_flops(who, 50)  # the refused ones have cost nothing
        assert bench.value('rheostat_client_flops_total{client="shop"}') == 250
        bench.now = 2 * NOON
        await bench.quotas.charge_flops(who, 100)
        await bench.close()

    run(scenario())


def test_a_request_that_no_pause_would_allow_is_refused_for_good(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.start()
        for quota in ({"flops_per_s": 50.0, "flops_burst": 99.0}, {"flops_per_day": 99.0}):
            with pytest.raises(InvalidRequestError, match=r"100 FLOPs .* never has more than 99"):
                await bench.quotas.charge_flops(caller(**quota), 100)
        await bench.close()

    run(scenario())


def test_what_was_spent_survives_a_restart(tmp_path: Path) -> None:
    who = caller(flops_per_day=100)

    async def scenario() -> None:
        first = Bench(tmp_path)
        await first.start()
        await first.quotas.charge_flops(who, 70)
        await first.close()
        second = Bench(tmp_path)
        await second.start()
        await refusal(second, who, 40)
        await second.quotas.charge_flops(who, 30)
        await second.close()

    run(scenario())


def test_clients_without_a_quota_are_counted_and_strangers_are_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.start()
        for who in (
            ANYONE,
            Caller("shop", profile=ClientProfile()),
            Caller("gone", profile=ClientProfile()),
        ):
            await bench.quotas.charge_request(who)
            await bench.quotas.charge_flops(who, 10)
        text = generate_latest(bench.registry).decode()
        assert bench.value('rheostat_client_requests_total{client="shop"}') == 1
        assert bench.value('rheostat_client_flops_total{client="shop"}') == 10
        assert "gone" not in text
        bench.counters.watch(["other"])
        text = generate_latest(bench.registry).decode()
        assert "shop" not in text
        assert 'rheostat_quota_refusals_total{client="other",quota="flops_per_s"} 0.0' in text
        await bench.close()

    run(scenario())

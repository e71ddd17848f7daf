from __future__ import annotations

import asyncio
import time

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.errors import OverloadedError
from server.observe.watchdog import EVERY_S, Watchdog
from server.settings import Settings

LIMIT_S = 0.02


class Turns:
    """A watchdog whose clock stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        self.watchdog = Watchdog(LIMIT_S, lambda: self.now)

    def late(self, seconds: float, by: float = 0.1) -> None:
        """Let the timer be late for some time."""
        end = self.now + seconds
        while self.now < end:
            self.watchdog.note(self.now, self.now + by)
            self.now += by

    def on_time(self) -> None:
        self.watchdog.note(self.now, self.now)

    async def read(self, num_requests: int, each_s: float = 0.003) -> int:
        """Return how many requests of one turn are let in."""
        count = 0
        for _ in range(num_requests):
            try:
                self.watchdog.check()
            except OverloadedError:
                continue
            count += 1
            self.now += each_s
        await asyncio.sleep(0)
        return count


def test_all_is_read_while_turns_are_on_time() -> None:
    turns = Turns()
    turns.on_time()
    assert asyncio.run(turns.read(1000)) == 1000


def test_one_long_turn_is_no_reason_to_refuse() -> None:
    turns = Turns()
    turns.watchdog.note(100.0, 105.0)
    turns.now = 105.0
    assert asyncio.run(turns.read(30)) == 30
    assert turns.watchdog.late_s == 0  # the better of two


def test_a_loop_that_stays_late_reads_for_a_moment_in_each_turn_until_it_is_on_time() -> None:
    async def found() -> list[int]:
        turns = Turns()
        turns.late(0.3)
        behind = [await turns.read(1000), await turns.read(1000), await turns.read(5)]
        assert turns.watchdog.stats.refusals == 2 * 1000 - sum(behind[:2])
        assert turns.watchdog.late_s == pytest.approx(0.1)
        turns.on_time()
        return [*behind, await turns.read(1000)]

    assert asyncio.run(found()) == [14, 14, 5, 1000]


def test_a_loop_that_is_kept_busy_is_late_and_then_no_more() -> None:
    async def watched() -> list[float]:
        watchdog = Watchdog(EVERY_S / 2, time.perf_counter)
        beating = asyncio.create_task(watchdog.beat())
        await asyncio.sleep(0)
        end = time.perf_counter() + 5
        while not watchdog.late_s > EVERY_S / 2 and time.perf_counter() < end:
            busy = time.perf_counter() + 2 * EVERY_S
            while time.perf_counter() < busy:
                pass
            await asyncio.sleep(0)
        found = [watchdog.late_s]
        while watchdog.late_s > EVERY_S / 2 and time.perf_counter() < end:
            await asyncio.sleep(EVERY_S)
        beating.cancel()
        return [*found, watchdog.late_s]

    busy, free = asyncio.run(watched())
    assert busy > EVERY_S / 2 >= free


def test_a_server_that_is_behind_refuses_what_is_posted_and_answers_the_rest(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(settings)) as client:
        monkeypatch.setattr("server.observe.watchdog._MOMENT", -1)
        monkeypatch.setattr("server.observe.watchdog._INTERVAL_S", -float("inf"))
        for path, kind in (("/v1/infer", "overloaded"), ("/v1/embeddings", "rate_limit_error")):
            answer = client.post(path, content=b"{")
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["type"] == kind
        assert client.get("/readyz").status_code == 200
        text = client.get("/metrics").text
        assert "\nrheostat_loop_refusals_total 2.0" in text

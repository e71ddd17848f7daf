from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.errors import OverloadedError
from server.observe.watchdog import EVERY_S, Watchdog
from server.settings import Settings

LIMIT_S = 0.02


class Loop:
    """A watchdog whose clock stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        self.watchdog = Watchdog(LIMIT_S, lambda: self.now)

    def run(self, seconds: float, late_s: float = 0.0, waited_s: float = 0.0) -> int:
        """Let the timer be late, and requests wait, for some time; return how many are let in."""
        end, count = self.now + seconds, 0
        while self.now < end:
            due = self.now + EVERY_S
            for _ in range(10):
                with suppress(OverloadedError):
                    self.watchdog.check(waited_s)
                    count += 1
            self.now = due + late_s
            self.watchdog.note(due, self.now)
        return count


def test_all_is_read_while_waits_are_short() -> None:
    loop = Loop()
    assert loop.run(1.0, waited_s=LIMIT_S) >= 500
    assert loop.watchdog.stats.refusals == 0


def test_one_long_turn_is_no_reason_to_refuse() -> None:
    loop = Loop()
    loop.watchdog.note(100.0, 105.0)
    loop.now = 105.0
    assert loop.run(EVERY_S, waited_s=5.0) == 10
    assert loop.watchdog.late_s == 0  # the better of two


@pytest.mark.parametrize("late_s", [0.0, 2 * LIMIT_S])
def test_what_waited_long_is_refused_once_all_waits_were_long(late_s: float) -> None:
    loop = Loop()
    assert loop.run(0.4, late_s, waited_s=3 * LIMIT_S) >= 60
    _ = loop.run(0.3, late_s, waited_s=3 * LIMIT_S)
    assert loop.watchdog.late_s == pytest.approx(late_s)
    refusals = loop.watchdog.stats.refusals
    assert loop.run(0.1, late_s, waited_s=3 * LIMIT_S) == 0
    assert loop.watchdog.stats.refusals > refusals
    assert loop.run(EVERY_S, late_s, waited_s=2 * LIMIT_S) == 10
    _ = loop.run(EVERY_S)  # nothing waits
    assert loop.run(EVERY_S, waited_s=3 * LIMIT_S) == 10


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
        monkeypatch.setattr("server.observe.watchdog._TOO_LONG", -1)
        monkeypatch.setattr("server.observe.watchdog._INTERVAL_S", -float("inf"))
        for path, kind in (("/v1/infer", "overloaded"), ("/v1/embeddings", "rate_limit_error")):
            answer = client.post(path, content=b"{")
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["type"] == kind
        assert client.get("/readyz").status_code == 200
        text = client.get("/metrics").text
        assert "\nrheostat_loop_refusals_total 2.0" in text

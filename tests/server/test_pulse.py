from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.errors import OverloadedError
from server.pulse import EVERY_S, Pulse
from server.settings import Settings


def late(pulse: Pulse, seconds: float, *, start: float = 100.0, by: float = 0.1) -> bool:
    """Let a pulse be late for some time; return whether it is behind then."""
    now = start
    while now < start + seconds:
        pulse.note(now, now + by)
        now += by + EVERY_S
    return pulse.is_behind


def test_a_loop_is_behind_when_it_has_been_late_for_some_time() -> None:
    pulse = Pulse(0.05, lambda: 0.0)
    assert not late(pulse, 0.2)
    pulse.note(101.0, 101.01)
    assert not late(pulse, 0.2, start=102.0)
    assert late(pulse, 0.5, start=103.0)
    assert pulse.stats.late_seconds == pytest.approx(0.1)


def test_one_long_stop_is_no_reason_to_refuse() -> None:
    pulse = Pulse(0.05, lambda: 0.0)
    pulse.note(100.0, 105.0)
    assert not pulse.is_behind


def test_one_turn_on_time_ends_it_and_for_some_time_little_brings_it_back() -> None:
    pulse = Pulse(0.05, lambda: 0.0)
    assert late(pulse, 0.7)
    pulse.note(101.0, 101.02)
    found = [pulse.is_behind, late(pulse, 0.2, start=102.0)]
    pulse.note(103.0, 103.0)
    assert found == [False, True]
    assert not late(pulse, 0.2, start=120.0)


def test_until_it_has_been_on_time_no_more_is_read_at_once_than_is_answered_in_a_moment() -> None:
    now = [100.0]
    pulse = Pulse(0.05, lambda: now[0])
    for i in range(401):  # 400 a second
        now[0] = 100.0 + i / 400
        with pulse.reading():
            pass
    assert late(pulse, 0.7, start=now[0])
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(pulse.reading())
        with pytest.raises(OverloadedError), pulse.reading():
            pass
    now[0] = 102.0
    pulse.note(now[0], now[0])
    with ExitStack() as stack:
        for _ in range(41):
            stack.enter_context(pulse.reading())
        with pytest.raises(OverloadedError), pulse.reading():
            pass
        now[0] += 11
        for _ in range(100):
            stack.enter_context(pulse.reading())
    assert pulse.stats.refusals == 2


def test_a_loop_that_is_kept_busy_is_behind_and_then_no_more() -> None:
    async def watched() -> list[bool]:
        pulse = Pulse(EVERY_S / 2, time.perf_counter)
        beating = asyncio.create_task(pulse.beat())
        await asyncio.sleep(0)
        end = time.perf_counter() + 5
        while not pulse.is_behind and time.perf_counter() < end:
            busy = time.perf_counter() + 2 * EVERY_S
            while time.perf_counter() < busy:
                pass
            await asyncio.sleep(0)
        found = [pulse.is_behind]
        while pulse.is_behind and time.perf_counter() < end:
            await asyncio.sleep(EVERY_S)
        beating.cancel()
        return [*found, pulse.is_behind]

    assert asyncio.run(watched()) == [True, False]


def test_a_server_that_is_behind_refuses_what_is_posted_and_answers_what_is_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(settings)) as client:
        monkeypatch.setattr("server.pulse._LEAST_ROOM", 0)
        monkeypatch.setattr(Pulse, "is_behind", property(lambda _: True), raising=False)
        monkeypatch.setattr(Pulse, "note", lambda *_: None)
        for path, kind in (("/v1/infer", "overloaded"), ("/v1/embeddings", "rate_limit_error")):
            answer = client.post(path, content=b"{")
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["type"] == kind
        assert client.get("/readyz").status_code == 200
        text = client.get("/metrics").text
        assert "\nrheostat_loop_refusals_total 2.0" in text

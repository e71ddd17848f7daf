"""The clock of stages, and one short run of the benchmark on tiny models."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
import uvloop

from bench.http.__main__ import requests_of
from bench.http.measure import Effort, run
from bench.http.stages import OTHER, STAGES, StageClock, watching
from server.app import create_app
from server.settings import Settings
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint


@pytest.fixture
def clock() -> StageClock:
    """A clock of which each reading is one nanosecond after the last."""
    ticks: Iterator[int] = count()
    return StageClock(lambda: next(ticks))


def test_time_counts_for_the_innermost_stage(clock: StageClock) -> None:
    clock.enter("outer")  # reads 0, 1
    clock.enter("inner")  # 2, 3
    clock.leave()  # 4, 5
    clock.leave()  # 6, 7
    assert clock.nanoseconds == {"outer": 2, "inner": 1}
    assert clock.own_ns == 4


def test_a_coroutine_is_out_of_its_stage_while_it_waits(clock: StageClock) -> None:
    gate = asyncio.Event()

    async def work(fails: bool) -> int:
        await gate.wait()
        if fails:
            raise ValueError("as it should")
        return 3

    timed = clock.timed(work, "work")

    async def scenario() -> None:
        task = asyncio.create_task(timed(False))
        await asyncio.sleep(0)
        assert clock.nanoseconds == {"work": 1}
        for _ in range(5):
            clock.enter("other")
            clock.leave()
        gate.set()
        assert await task == 3
        assert clock.nanoseconds == {"work": 2, "other": 5}
        with pytest.raises(ValueError, match="as it should"):
            await timed(True)
        cancelled = asyncio.create_task(clock.timed(asyncio.sleep, "sleep")(60))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    asyncio.run(scenario())


def function_at(place: str) -> object:
    module, _, path = place.partition(":")
    return resolve_name(f"{module}:{path}")


def test_functions_of_stages_are_there_and_are_put_back() -> None:
    places = [place for places in STAGES.values() for place in places]
    before = [function_at(place) for place in places]
    with watching(StageClock()):
        assert not any(function_at(p) is old for p, old in zip(places, before, strict=True))
    assert [function_at(place) for place in places] == before


def test_a_function_that_has_moved_is_an_error() -> None:
    with (
        pytest.raises(AttributeError),
        watching(StageClock(), {"choose": ["server.loading:Loading.chosen_elsewhere"]}),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="needs CPU time by thread")
def test_a_run_tells_the_cost_of_every_stage(tmp_path: Path) -> None:
    text = write_text_checkpoint(tmp_path / "models" / "text")
    image = write_checkpoint(tmp_path / "models" / "image")
    settings = Settings(
        models=tmp_path / "models",
        host="127.0.0.1",
        backend="torch",
        profiles=tmp_path / "profiles",
        database=f"sqlite:///{tmp_path}/clients.db",
    )
    num_threads = torch.get_num_threads()
    app = create_app(settings)
    kinds = requests_of(text, image)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(run(app, settings, Effort(rounds=1, requests=20), kinds))
    finally:
        torch.set_num_threads(num_threads)
    assert found.keys() == {"/v1/embeddings", "/v1/infer"}
    for cost in found.values():
        assert cost.stages[0].keys() == {*STAGES, OTHER}
        assert min(cost.stage(name) for name in STAGES) > 0
        assert min(*cost.alone, *cost.many) > 0
        assert 100 < cost.calls < 10_000

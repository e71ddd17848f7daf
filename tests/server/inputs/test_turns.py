"""Items here are begun one after the other by hand, so that turns are counted and not timed."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest

from server.errors import ModelNotReadyError
from server.inputs.turns import SHORT_S, Turns
from tests.server.samples import run

LONG_S = 1.0


class Gate:
    """Items that wait to be let through, in the order in which they begin."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self._allowed = 0

    def work(self, item: str) -> str:
        """Begin, and end when as many may have ended."""
        with self._changed:
            self.begun.append(item)
            turn = len(self.begun)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._allowed >= turn, 20)
        return item.upper()

    async def let(self, number: int) -> None:
        """Let so many more end."""
        with self._changed:
            self._allowed += number
            self._changed.notify_all()

    async def wait(self, number: int) -> list[str]:
        """Wait until so many have begun; return which."""
        for _ in range(20_000):
            if len(self.begun) >= number:
                return self.begun[:number]
            await asyncio.sleep(0.001)
        raise AssertionError(self.begun)


@pytest.fixture
def gate() -> Iterator[Gate]:
    yield (gate := Gate())
    gate._allowed = 10**9


@pytest.fixture
def turns() -> Iterator[Turns]:
    turns = Turns(1)  # and one for what is short
    yield turns
    turns.close()


def ask(
    turns: Turns, gate: Gate, name: str, number: int, cost: float = LONG_S, **whose: Any
) -> asyncio.Task[list[str]]:
    items = [f"{name}{i}" for i in range(number)]
    return asyncio.ensure_future(turns.map(gate.work, items, [cost] * number, **whose))


async def finish(gate: Gate, *asked: asyncio.Task[Any]) -> list[str]:
    await gate.let(10**6)
    await asyncio.gather(*asked)
    return gate.begun


def test_a_small_request_waits_for_one_item_and_not_for_a_large_request(
    turns: Turns, gate: Gate
) -> None:
    async def scenario() -> None:
        large = ask(turns, gate, "large", 64)
        await gate.wait(1)
        small = ask(turns, gate, "small", 1, cost=0.1)
        await asyncio.sleep(0)
        await gate.let(1)
        assert await gate.wait(2) == ["large0", "small0"]
        await gate.let(1)
        assert await small == ["SMALL0"]
        assert not large.done()
        assert len(gate.begun) <= 3
        await finish(gate, large)

    run(scenario())


def test_a_small_request_goes_before_many_large_ones_that_came_earlier(
    turns: Turns, gate: Gate
) -> None:
    async def scenario() -> None:
        large = [ask(turns, gate, f"large{i}-", 4) for i in range(20)]
        await gate.wait(1)
        small = ask(turns, gate, "small", 1, cost=0.02)
        await asyncio.sleep(0)
        begun = await finish(gate, small, *large)
        assert begun[1] == "small0"

    run(scenario())


def test_short_items_do_not_wait_for_long_ones_at_all(turns: Turns, gate: Gate) -> None:
    async def scenario() -> None:
        large = ask(turns, gate, "large", 64)
        await gate.wait(1)
        quick = Gate()
        await quick.let(10**6)
        for i in range(50):
            assert await ask(turns, quick, f"text{i}-", 3, cost=SHORT_S) == [
                f"TEXT{i}-{j}" for j in range(3)
            ]
        assert gate.begun == ["large0"]
        await finish(gate, large)

    run(scenario())


def test_clients_take_turns_however_many_requests_one_has(turns: Turns, gate: Gate) -> None:
    async def scenario() -> None:
        many = [ask(turns, gate, f"many{i}-", 2, client="many") for i in range(10)]
        await gate.wait(1)
        few = ask(turns, gate, "few", 8, client="few")
        await asyncio.sleep(0)
        begun = await finish(gate, few, *many)
        # Of any stretch, half is the one's and half the other's, but for one item.
        for stop in range(1, 17):
            assert abs(2 * sum(name.startswith("few") for name in begun[1:stop]) - stop) <= 2

    run(scenario())


def test_a_client_of_twice_the_weight_gets_twice_the_turns(turns: Turns, gate: Gate) -> None:
    async def scenario() -> None:
        first = ask(turns, gate, "first", 1, client="c")
        await gate.wait(1)
        light = ask(turns, gate, "light", 30, client="a", weight=1.0)
        heavy = ask(turns, gate, "heavy", 30, client="b", weight=2.0)
        await asyncio.sleep(0)
        begun = await finish(gate, first, light, heavy)
        assert 18 <= sum(name.startswith("heavy") for name in begun[1:31]) <= 22

    run(scenario())


def test_large_requests_are_not_starved_by_small_ones(turns: Turns, gate: Gate) -> None:
    async def scenario() -> None:
        first = ask(turns, gate, "first", 1)
        await gate.wait(1)
        large = ask(turns, gate, "large", 1, cost=10 * SHORT_S)
        asked = []
        for i in range(60):  # each comes while the one before runs
            asked.append(ask(turns, gate, f"small{i}-", 1, cost=2 * SHORT_S))
            await asyncio.sleep(0)
            await gate.let(1)
            await gate.wait(i + 2)
        begun = await finish(gate, first, large, *asked)
        assert 1 < begun.index("large0") < 20

    run(scenario())


def test_what_has_not_begun_when_its_caller_leaves_never_does(turns: Turns, gate: Gate) -> None:
    async def scenario() -> None:
        large = ask(turns, gate, "large", 64)
        await gate.wait(1)
        large.cancel()
        with suppress(asyncio.CancelledError):
            await large
        assert turns.waiting_s == pytest.approx(LONG_S)  # what runs
        other = ask(turns, gate, "other", 1)
        await asyncio.sleep(0)
        assert await finish(gate, other) == ["large0", "other0"]
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if not turns.waiting_s:
                break
        assert turns.waiting_s == 0

    run(scenario())


def test_after_a_failure_nothing_more_begins_and_the_first_is_named() -> None:
    def work(item: int) -> int:
        started.append(item)
        if item == 2:
            time.sleep(0.05)  # later than item 3, which another thread has
        return 1 // (item not in (2, 3))

    started: list[int] = []
    turns = Turns(2)

    async def scenario() -> None:
        for _ in range(20):
            started.clear()
            with pytest.raises(ZeroDivisionError) as caught:
                await turns.map(work, range(100), [LONG_S] * 100)
            assert caught.value.__traceback__ is not None
            frames = [one.frame.f_locals.get("item") for one in traceback_of(caught.value)]
            assert 2 in frames
            assert len(started) <= 5
        assert turns.waiting_s == 0

    run(scenario())
    turns.close()


def traceback_of(error: BaseException) -> Iterator[Any]:
    trace: Any = error.__traceback__
    while trace is not None:
        yield type("Frame", (), {"frame": trace.tb_frame})
        trace = trace.tb_next


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("cost", [SHORT_S, LONG_S])
def test_results_come_in_order(turns: Turns, count: int, cost: float) -> None:
    async def scenario() -> None:
        for _ in range(20):
            found = await turns.map(str, range(count), [cost] * count)
            assert found == [str(i) for i in range(count)]

    run(scenario())


def test_every_caller_hears_at_the_end(gate: Gate) -> None:
    turns = Turns(1)

    async def scenario() -> None:
        running = ask(turns, gate, "running", 3)
        await gate.wait(1)
        waiting = [ask(turns, gate, f"waiting{i}-", 2) for i in range(5)]
        await asyncio.sleep(0)
        await gate.let(10**6)
        turns.close()
        for one in [running, *waiting]:
            with pytest.raises(ModelNotReadyError, match="the server is stopping"):
                await one
        with pytest.raises(ModelNotReadyError, match="the server is stopping"):
            await turns.map(str, [1], [LONG_S])
        assert gate.begun == ["running0"]

    run(scenario())


def test_nothing_of_a_request_is_kept_once_it_is_over(turns: Turns) -> None:
    class Item:
        pass

    def fail(item: Item) -> None:
        raise ValueError

    async def scenario() -> None:
        for function in (id, fail):
            items = [Item() for _ in range(4)]
            seen = [weakref.ref(item) for item in items]
            with suppress(ValueError):
                await turns.map(function, items, [SHORT_S] * 4)
            del items
            await asyncio.sleep(0.05)  # for the threads to wait again
            assert [one() for one in seen] == [None] * 4

    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()


def test_what_waits_is_predicted_from_the_costs_that_were_given(turns: Turns, gate: Gate) -> None:
    async def scenario() -> None:
        assert turns.predict_s([0.5, 0.25]) == pytest.approx(0.75)
        large = ask(turns, gate, "large", 10, client="a")
        await gate.wait(1)
        assert turns.waiting_s == pytest.approx(10 * LONG_S)
        # Another client would have every second turn, and no more than all that waits before it.
        assert turns.predict_s([0.5], "b") == pytest.approx(1.0)
        assert turns.predict_s([20.0], "b") == pytest.approx(30.0)
        assert turns.predict_s([0.5], "b", weight=4.0) == pytest.approx(0.625)
        await finish(gate, large)

    run(scenario())


def test_many_requests_at_once_all_end(turns: Turns) -> None:
    async def scenario() -> None:
        costs = [SHORT_S, 2 * SHORT_S]
        asked: list[Coroutine[Any, Any, list[str]]] = [
            turns.map(str, range(i % 7), [costs[(i + j) % 2] for j in range(i % 7)], str(i % 5))
            for i in range(500)
        ]
        found = await asyncio.gather(*asked)
        assert found == [[str(j) for j in range(i % 7)] for i in range(500)]
        assert turns.waiting_s == 0

    run(scenario())


def test_of_one_client_the_request_that_is_due_first_is_read_first(
    turns: Turns, gate: Gate
) -> None:
    async def scenario() -> None:
        first = ask(turns, gate, "first", 1, client="a")
        await gate.wait(1)
        asked = [
            ask(turns, gate, name, 2, client=client, due=due)
            for name, client, due in (
                ("never", "a", math.inf),
                ("late", "a", 9.0),
                ("soon", "a", 5.0),
                ("other", "b", math.inf),
            )
        ]
        await asyncio.sleep(0)
        begun = (await finish(gate, first, *asked))[1:]
        own = [name for name in begun if not name.startswith("other")]
        assert own == ["soon0", "soon1", "late0", "late1", "never0", "never1"]
        assert "other1" in begun[:5]  # whatever is due, half of the turns are another client's

    run(scenario())


def test_what_is_there_in_time_is_had_and_the_rest_never_begins(turns: Turns, gate: Gate) -> None:
    async def scenario() -> None:
        items = [f"text{i}" for i in range(4)]
        asked = asyncio.ensure_future(turns.map_for(0.1, gate.work, items, [LONG_S] * 4))
        await gate.wait(1)
        await gate.let(2)
        assert await asked == ["TEXT0", "TEXT1", None, None]
        await gate.let(10)
        await asyncio.sleep(0.01)
        assert gate.begun == items[:3]  # the third ran at the time
        assert await turns.map(str, [1], [LONG_S]) == ["1"]
        assert turns.waiting_s == 0

    run(scenario())

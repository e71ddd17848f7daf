from __future__ import annotations

import asyncio
import logging

import pytest

from server.engine.engine import Engine
from server.engine.local import LocalCore
from server.errors import (
    DeadlineError,
    InferenceError,
    ModelNotReadyError,
    OverloadedError,
)
from tests.server.engine.fake import FakeBackend, answers, held, running, submit, turn, work
from tests.server.samples import run


def test_results_come_in_the_order_of_the_works() -> None:
    async def scenario() -> None:
        async with running(FakeBackend()) as engine:
            assert answers(await submit(engine, "a1 b2 a3 c4 b5 a6")) == [2, 4, 6, 8, 10, 12]

    run(scenario())


def test_plans_share_a_batch_each_is_run_once_and_the_oldest_goes_first() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with held(backend) as engine:
            requests = [submit(engine, names) for names in ("b1", "a2 b3", "a4", "c5")]
            await turn()
            backend.release()
            found = [answers(results) for results in await asyncio.gather(*requests)]
        assert backend.calls == ["z 0", "b 1 3", "a 2 4", "c 5"]
        assert found == [[2], [4, 6], [8], [10]]

    run(scenario())


def test_equal_inputs_are_computed_once() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with held(backend) as engine:
            requests = [submit(engine, names) for names in ("a1", "a2 a1", "b1")]
            await turn()
            backend.release()
            found = [answers(results) for results in await asyncio.gather(*requests)]
        assert backend.calls == ["z 0", "a 1 2", "b 1"]
        assert found == [[2], [4, 2], [2]]

    run(scenario())


def test_what_is_done_by_a_time_is_returned_and_the_rest_leaves() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with held(backend) as engine:
            with engine.reserve(2) as room:
                late = await room.submit_until([work("a1"), work("a2")], backend.clock())
                assert late == [None, None]
                backend.release()
                done = await room.submit_until([work("a3"), work("b4")], backend.clock() + 20)
                assert answers([one for one in done if one is not None]) == [6, 8]
            assert engine.depth == 0
        assert backend.calls == ["z 0", "a 3", "b 4"]

    run(scenario())


def test_no_batch_is_larger_than_allowed() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with running(backend, max_batch_size=3) as engine:
            results = await submit(engine, "a0 a1 a2 a3 a4 a5 a6")
        assert backend.calls == ["a 0 1 2", "a 3 4 5", "a 6"]
        assert [result.batch_size for result in results] == [3, 3, 3, 3, 3, 3, 1]

    run(scenario())


def test_a_lone_work_does_not_wait_for_company() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with running(backend, max_batch_size=32) as engine:
            (result,) = await submit(engine, "a1")
        assert result.batch_size == 1

    run(scenario())


def test_waiting_and_running_are_timed_apart() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.seconds = 2
        async with held(backend) as engine:
            waiting = submit(engine, "a1 b2")
            await turn()
            backend.release()
            first, second = await waiting
        assert (first.queue_s, first.run_s) == (2, 2)
        assert (second.queue_s, second.run_s) == (2, 4)  # in one batch, after the other's step

    run(scenario())


def test_the_size_of_every_batch_is_told() -> None:
    async def scenario() -> None:
        backend, sizes = FakeBackend(), list[int]()
        backend.errors["b"] = ValueError("no")
        core = LocalCore(backend, 4, 4096, backend.clock)
        engine = Engine(core, 64, backend.clock, sizes.append)
        await engine.start()
        await submit(engine, "a1 a2 a3")
        await asyncio.gather(submit(engine, "b1 b2"), return_exceptions=True)
        await submit(engine, "c1")
        await engine.close()
        assert sizes == [3, 2, 1]

    run(scenario())


def test_an_error_reaches_everybody_who_takes_the_step_and_nobody_else() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.errors["b"] = ValueError("a secret of the back end")
        async with held(backend) as engine:
            requests = [submit(engine, names) for names in ("b1", "a2", "b3")]
            await turn()
            backend.release()
            first, second, third = await asyncio.gather(*requests, return_exceptions=True)
            assert isinstance(second, list)
            assert answers(second) == [4]
            for error in (first, third):
                assert isinstance(error, InferenceError)
                assert str(error) == "the model failed on this request"
            assert first is not third
            assert backend.calls == ["z 0", "b 1 3", "a 2"]
            assert answers(await submit(engine, "a9")) == [18]
            assert engine.depth == 0

    run(scenario())


@pytest.mark.parametrize("num_extra", [-1, 1])
def test_an_answer_with_a_wrong_number_of_rows_is_an_error_not_a_shift(num_extra: int) -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with running(backend) as engine:
            backend.num_extra = num_extra
            with pytest.raises(InferenceError, match="the model failed"):
                await submit(engine, "a1 a2")
            backend.num_extra = 0
            assert answers(await submit(engine, "a1 a2")) == [2, 4]

    run(scenario())


def test_a_cancelled_request_leaves_the_queue_and_gives_its_room_back() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with held(backend, max_queue=3) as engine:
            leaver = submit(engine, "a1 a2")
            await turn()
            assert engine.depth == 3
            leaver.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaver
            assert engine.depth == 1
            stayer = submit(engine, "a3")
            await turn()
            backend.release()
            assert answers(await stayer) == [6]
        assert backend.calls == ["z 0", "a 3"]

    run(scenario())


def test_a_request_cancelled_while_it_runs_disturbs_nobody_in_its_batch() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with held(backend) as engine:
            leaver, stayer = submit(engine, "a1"), submit(engine, "a2")
            await turn()
            backend.let_one()
            await backend.until_held()
            leaver.cancel()
            backend.release()
            assert answers(await stayer) == [4]
            assert leaver.cancelled()

    run(scenario())


def test_a_work_whose_deadline_has_passed_is_not_run_and_is_told() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.seconds = 2
        async with held(backend) as engine:
            late, in_time = (
                submit(engine, name, deadline=at) for name, at in (("a1", 1), ("a2", 9))
            )
            await turn()
            backend.release()
            with pytest.raises(DeadlineError, match="the deadline passed"):
                await late
            assert answers(await in_time) == [4]
            assert engine.depth == 0
        assert backend.calls == ["z 0", "a 2"]

    run(scenario())


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with held(backend, max_queue=3) as engine:
            waiting = submit(engine, "a1 a2")
            await turn()
            with pytest.raises(OverloadedError, match="3 inputs are being served") as caught:
                await submit(engine, "a3")
            assert int(caught.value.headers["Retry-After"]) >= 1
            backend.release()
            assert answers(await waiting) == [2, 4]
            assert answers(await submit(engine, "a3")) == [6]

    run(scenario())


def test_an_engine_that_is_not_started_refuses_and_closes() -> None:
    async def scenario() -> None:
        engine = Engine(LocalCore(FakeBackend(), 4, 4096, lambda: 0.0), 64, lambda: 0.0)
        assert not engine.is_alive
        with pytest.raises(ModelNotReadyError, match="the engine is not running"):
            await submit(engine, "a1")
        await engine.close()

    run(scenario())


def test_closing_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with held(backend) as engine:
            accepted = submit(engine, "a1 b2 a3")
            await turn()
            with engine.reserve(1) as room:
                closing = asyncio.create_task(engine.close())
                await turn()
                assert not engine.is_alive
                with pytest.raises(ModelNotReadyError, match="the engine is not running"):
                    await submit(engine, "a4")
                with pytest.raises(ModelNotReadyError, match="the engine is not running"):
                    await room.submit([work("a5")])
            assert not closing.done()
            backend.release()
            await closing
            assert answers(await accepted) == [2, 4, 6]
        assert backend.calls == ["z 0", "a 1 3", "b 2"]

    run(scenario())


def test_closing_twice_is_closing_once() -> None:
    async def scenario() -> None:
        async with running(FakeBackend()) as engine:
            await engine.close()
            await engine.close()

    run(scenario())


@pytest.mark.parametrize("death", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_when_the_worker_dies_everybody_is_told_and_nobody_is_accepted(
    death: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.errors["b"] = death
        async with held(backend) as engine:
            requests = [submit(engine, names) for names in ("b1", "a2 a3", "b4")]
            await turn()
            backend.release()
            for error in await asyncio.gather(*requests, return_exceptions=True):
                assert isinstance(error, InferenceError)
                assert str(error) == "the worker stopped before it could answer"
            assert not engine.is_alive
            assert engine.depth == 0
            with pytest.raises(ModelNotReadyError, match="the engine is not running"):
                await submit(engine, "a5")
        assert backend.calls == ["z 0", "b 1 4"]

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert "the worker died" in caplog.text


def test_many_requests_at_once_each_get_their_own_answers() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with running(backend, max_batch_size=5, max_queue=1000) as engine:
            names = [[f"{'abc'[i % 3]}{10 * i + k}" for k in range(3)] for i in range(100)]
            requests = [submit(engine, " ".join(request)) for request in names]
            for request, results in zip(names, await asyncio.gather(*requests), strict=True):
                assert answers(results) == [2 * int(name[1:]) for name in request]
            assert engine.depth == 0
        assert sum(len(call.split()) - 1 for call in backend.calls) == 300

    run(scenario())

from __future__ import annotations

import asyncio
from functools import partial

from server.http.starting import Starter


def test_requests_begin_in_order_and_what_is_ready_runs_between_them() -> None:
    async def ran() -> list[str]:
        loop, starter, log = asyncio.get_running_loop(), Starter(), []
        done = [loop.create_future() for _ in range(3)]

        async def request(number: int) -> None:
            log.append(f"begin {number}")
            loop.call_soon(done[number].set_result, None)
            await done[number]
            log.append(f"end {number}")

        tasks: list[asyncio.Task[None]] = []

        def begin(number: int) -> None:
            tasks.append(loop.create_task(request(number)))

        for number in range(3):
            starter.put(partial(begin, number), loop)
        assert len(starter) == 2  # the first has begun at once
        while len(tasks) < 3:
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        starter.put(lambda: log.append("at once"), loop)
        return log

    log = asyncio.run(ran())
    assert [line for line in log if "begin" in line] == ["begin 0", "begin 1", "begin 2"]
    assert log.index("end 0") < log.index("begin 2")
    assert log[-1] == "at once"

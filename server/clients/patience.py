"""How long the database may take to answer, by time in which its answer could be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_SLICES = 8


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """End the block after a time, as `asyncio.timeout` does, but count a standstill as a moment.

    An event loop that stood still, stopped by a debugger or held up by a long turn, finds the time
    gone and the answer unread: the timeout would then tell of the loop and not of the database. So
    the time is counted in slices, and one in which the loop stood still is one slice.

    Args:
        seconds: That the block may take.

    Raises:
        TimeoutError: If it takes longer.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def wait(num_slices: int) -> None:
        nonlocal timer
        if num_slices:
            timer = loop.call_later(seconds / _SLICES, wait, num_slices - 1)
        else:
            scope.reschedule(loop.time())

    async with asyncio.timeout(None) as scope:
        timer = loop.call_later(seconds / _SLICES, wait, _SLICES - 1)
        try:
            yield
        finally:
            timer.cancel()

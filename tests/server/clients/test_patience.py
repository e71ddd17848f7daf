from __future__ import annotations

import asyncio
import logging
import socket
import time

import pytest

from server.clients.database import Database
from server.clients.directory import Directory
from server.clients.patience import patience
from server.clients.store import Store
from server.errors import DatabaseError
from tests.server.samples import run


def test_a_block_that_takes_too_long_is_ended() -> None:
    async def scenario() -> None:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            async with patience(0.2):
                await asyncio.Event().wait()
        assert 0.2 <= time.monotonic() - start < 1
        async with patience(0.2):
            pass
        await asyncio.sleep(0.3)  # nothing is ended once the block is over

    run(scenario())


def test_a_standstill_of_the_loop_is_counted_as_a_moment() -> None:
    async def scenario() -> None:
        async with patience(0.4):
            for _ in range(4):  # each longer than all that is allowed
                await asyncio.sleep(0)
                time.sleep(0.5)
            await asyncio.sleep(0.05)

    run(scenario())


def test_a_loop_that_stood_still_does_not_take_the_database_for_away(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        database = Database(url)
        await database.migrate()
        directory = Directory(Store(database, 10), time.time, time.monotonic)
        await directory.start()
        for turns in (1, 2, 3):  # wherever the answer is just then
            refreshed = asyncio.create_task(directory.refresh())
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(2.5)
            await refreshed
            assert directory.away_s == 0
        await directory.close()
        await database.close()

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert not caplog.records


def test_a_database_that_accepts_and_says_nothing_is_away() -> None:
    async def scenario() -> None:
        database = Database(f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/clients")
        start = time.monotonic()
        with pytest.raises(DatabaseError, match="cannot be used: it does not answer"):
            await database.migrate()
        assert 2 <= time.monotonic() - start < 8
        await database.close()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        run(scenario())

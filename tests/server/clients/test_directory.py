from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from server.clients.database import Database
from server.clients.directory import Directory
from server.clients.keys import Scope, new_key
from server.clients.profile import ClientProfile
from server.clients.store import Store
from server.errors import DatabaseError
from tests.postgres import cluster
from tests.server.samples import run

SHOP = ClientProfile(weight=2.0, priority=3)


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[Store]:
    database = Database(url)
    await database.migrate()
    yield Store(database, 10)
    await database.close()


async def until(condition: object) -> None:
    """Wait until a condition holds; `run` ends what never does."""
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.01)


def test_a_directory_follows_what_others_write(url: str) -> None:
    async def scenario() -> None:
        changes: list[Collection[str]] = []
        async with store_at(url) as store, store_at(url) as elsewhere:
            directory = Directory(
                store, lambda: 7.0, lambda: 0.0, lambda ids: changes.append(set(ids))
            )
            await directory.start()
            assert not directory.has_keys
            text, key = new_key({Scope.INFER}, "shop", "", 0.0, None)
            await elsewhere.put_client("shop", SHOP)
            await elsewhere.add_key(key)
            await until(lambda: directory.has_keys)
            assert directory.key(text) == key
            caller = directory.caller("shop")
            assert caller is not None
            assert (caller.client, caller.weight, caller.priority) == ("shop", 2.0, 3)
            assert caller.profile == SHOP
            await elsewhere.revoke_key(key.id, 5.0)
            await until(lambda: (found := directory.key(text)) and found.revoked == 5.0)
            await elsewhere.delete_client("shop")
            await until(lambda: directory.caller("shop") is None)
            assert directory.key(text) is None
            assert changes[0] == set()
            assert changes[-1] == set()
            assert {"shop"} in changes
            await directory.close()

    run(scenario())


def test_what_stands_in_the_database_is_known_once_it_has_caught_up(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store, store_at(url) as elsewhere:
            directory = Directory(store, lambda: 7.0, lambda: 0.0)
            await directory.caught_up()  # nobody polls yet: there is nothing to wait for
            await directory.start()
            for _ in range(3):
                text, key = new_key({Scope.INFER}, None, "", 0.0, None)
                await elsewhere.add_key(key)
                assert directory.key(text) is None
                await directory.caught_up()
                assert directory.key(text) == key
            waiting = asyncio.create_task(directory.caught_up())
            await asyncio.sleep(0)
            await directory.close()
            await waiting
            await directory.caught_up()

    run(scenario())


def test_uses_are_written_at_the_end_if_not_before(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store:
            _, key = new_key({Scope.INFER}, None, "", 0.0, None)
            await store.add_key(key)
            directory = Directory(store, lambda: 9.0, lambda: 0.0)
            await directory.start()
            for _ in range(3):
                directory.note_use(key)
            await directory.close()
            assert [found.last_used for found in await store.keys()] == [9.0]

    run(scenario())


@pytest.mark.slow
def test_without_the_database_it_goes_on_with_what_it_knows_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        with cluster() as server:
            async with store_at(server.create("away")) as store:
                text, key = new_key({Scope.INFER}, "shop", "", 0.0, None)
                await store.put_client("shop", SHOP)
                await store.add_key(key)
                now = [100.0]
                directory = Directory(store, lambda: 0.0, lambda: now[0])
                await directory.start()
                assert directory.away_s == 0
                server.stop()
                with pytest.raises(DatabaseError, match="cannot be used"):
                    await directory.refresh()
                now[0] = 160.0
                await until(lambda: directory.away_s == 60)
                assert directory.key(text) == key
                assert directory.caller("shop") is not None
                server.start()
                await until(lambda: directory.away_s == 0)
                await store.put_client("new", SHOP)
                await until(lambda: directory.caller("new") is not None)
                await directory.close()

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert caplog.text.count("known clients go on as they are") == 1  # not at each poll

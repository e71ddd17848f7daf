from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select

from search.budget import Budget
from server.clients import tables
from server.clients.database import Database
from server.clients.keys import Key, Scope, new_key
from server.clients.profile import ClientProfile, Quota
from server.clients.store import MAX_ENDED_KEYS, MAX_KEYS_PER_CLIENT, Store
from server.errors import (
    ConflictError,
    DatabaseError,
    UnknownClientError,
    UnknownKeyError,
)
from server.settings import SettingsError
from tests.server.samples import run

SHOP = ClientProfile(
    preferences={"tiny": {"fish": 2.0}},
    budget=Budget(fraction=0.5, min_quality=0.9, strict=True),
    maximum=Budget(flops=1e9, latency_ms=50),
    priority=2,
    weight=0.5,
    quota=Quota(requests_per_s=3, flops_per_day=1e12),
    models=("tiny",),
)
MAX_CLIENTS = 3


@asynccontextmanager
async def database_at(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    try:
        await database.migrate()
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[Store]:
    async with database_at(url) as database:
        yield Store(database, MAX_CLIENTS)


def key_of(client: str | None, created: float = 0.0, expires: float | None = None) -> Key:
    return new_key({Scope.INFER}, client, "", created, expires)[1]


def test_migrations_lead_to_the_tables_that_the_code_knows(url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), tables.metadata))

    async def scenario() -> None:
        async with database_at(url) as database:
            await database.migrate()  # again is nothing
            async with database.reading() as connection:
                assert await connection.run_sync(differences) == []

    run(scenario())


def test_clients_stored_before_consent_was_asked_for_have_not_given_it(url: str) -> None:
    before = ClientProfile(budget=Budget(strict=False), maximum=Budget(flops=1e9, strict=False))

    async def scenario() -> None:
        async with store_at(url) as store:
            await store.put_client("old", before)
            await store.put_client("strict", SHOP)
        async with database_at(url) as database, database.writing() as connection:
            await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        async with store_at(url) as store:
            expected = ClientProfile(budget=Budget(), maximum=Budget(flops=1e9))
            assert await store.clients() == {"old": expected, "strict": SHOP}

    run(scenario())


def test_replicas_that_start_together_migrate_once(url: str) -> None:
    async def scenario() -> None:
        databases = [Database(url) for _ in range(4)]
        await asyncio.gather(*(database.migrate() for database in databases))
        async with databases[0].reading() as connection:
            assert len((await connection.execute(select(tables.revisions))).all()) == 1
        for database in databases:
            await database.close()

    run(scenario())


def test_a_client_comes_back_as_it_was_stored(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store:
            assert await store.put_client("shop", SHOP)
            assert await store.client("shop") == SHOP
            assert not await store.put_client("shop", ClientProfile())
            assert await store.clients() == {"shop": ClientProfile()}
            await store.delete_client("shop")
            for forgotten in (store.client, store.delete_client):
                with pytest.raises(UnknownClientError, match="client 'shop' is not known"):
                    await forgotten("shop")

    run(scenario())


def test_clients_and_keys_are_bounded(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store:
            for number in range(MAX_CLIENTS):
                await store.put_client(f"c{number}", SHOP)
            with pytest.raises(ConflictError, match=r"3 clients already \(max_clients\)"):
                await store.put_client("more", SHOP)
            assert not await store.put_client("c0", ClientProfile())
            for client in ("c0", None):
                for _ in range(MAX_KEYS_PER_CLIENT):
                    await store.add_key(key_of(client))
                with pytest.raises(ConflictError, match="32 keys of this client are good already"):
                    await store.add_key(key_of(client))

    run(scenario())


def test_keys_that_ended_keep_nobody_from_a_new_one_and_are_bounded(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store:
            await store.put_client("shop", SHOP)
            for client in ("shop", None):
                made = []
                for second in range(MAX_ENDED_KEYS + 8):  # half of them expire, half are revoked
                    key = key_of(client, float(second), second + 0.5 if second % 2 else None)
                    made.append(key.id)
                    await store.add_key(key)
                    await store.revoke_key(key.id, second + 0.5)
                for _ in range(MAX_KEYS_PER_CLIENT):
                    await store.add_key(key_of(client, created=100.0))
                with pytest.raises(ConflictError, match="revoke one"):
                    await store.add_key(key_of(client, created=100.0))
                own = [key for key in await store.keys() if key.client == client]
                ended = [key.id for key in own if key.ended(100.0) is not None]
                assert ended == made[-MAX_ENDED_KEYS:]  # those that ended last
                assert len(own) == MAX_ENDED_KEYS + MAX_KEYS_PER_CLIENT

    run(scenario())


def test_a_key_that_was_revoked_by_a_clock_that_ran_ahead_does_not_count(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store:
            for _ in range(MAX_KEYS_PER_CLIENT):
                await store.add_key(key := key_of(None))
                await store.revoke_key(key.id, 1e9)
            await store.add_key(key_of(None, created=1.0))

    run(scenario())


def test_keys_belong_to_a_client_that_is_stored_and_go_with_it(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store:
            with pytest.raises(UnknownClientError):
                await store.add_key(key_of("shop"))
            await store.put_client("shop", SHOP)
            await store.add_key(mine := key_of("shop", 1.0))
            await store.add_key(nobodys := key_of(None, 2.0))
            assert await store.keys() == [mine, nobodys]
            await store.delete_client("shop")
            assert await store.keys() == [nobodys]

    run(scenario())


def test_a_revoked_key_stays_revoked_and_is_forgotten_after_a_month(url: str) -> None:
    month_s = 30 * 86_400.0

    async def scenario() -> None:
        async with store_at(url) as store:
            await store.add_key(key := key_of(None))
            await store.add_key(key_of(None, expires=20.0))
            await store.revoke_key(key.id, 10.0)
            await store.revoke_key(key.id, 30.0)
            assert {found.revoked for found in await store.keys()} == {10.0, None}
            with pytest.raises(UnknownKeyError, match="key '0' is not known"):
                await store.revoke_key("0", 10.0)
            await store.add_key(new := key_of(None, created=month_s + 40))
            assert await store.keys() == [new]

    run(scenario())


def test_changes_are_told_once_and_deletions_by_what_is_left(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store:
            await store.put_client("a", SHOP)
            await store.put_client("b", SHOP)
            await store.add_key(key := key_of("a"))
            first = await store.changes(-1)
            assert first is not None
            assert first.clients == {"a": SHOP, "b": SHOP}
            assert first.keys == (key,)
            assert await store.changes(first.revision) is None
            await store.note_use({key.id: 5.0})
            assert await store.changes(first.revision) is None
            await store.delete_client("a")
            await store.put_client("b", ClientProfile())
            second = await store.changes(first.revision)
            assert second is not None
            assert second.clients == {"b": ClientProfile()}
            assert second.client_ids == {"b"}
            assert (second.keys, second.key_ids) == ((), frozenset())

    run(scenario())


def test_no_change_of_many_writers_is_missed(url: str) -> None:
    async def scenario() -> None:
        async with store_at(url) as store, store_at(url) as other:
            await store.put_client("a", SHOP)
            seen: set[str] = set()
            revision = -1

            async def write(one: Store) -> None:
                for _ in range(8):
                    await one.add_key(key_of("a"))

            async def read() -> None:
                nonlocal revision
                while len(seen) < 16:
                    if (changes := await store.changes(revision)) is not None:
                        revision = changes.revision
                        seen.update(key.id for key in changes.keys)

            await asyncio.gather(write(store), write(other), read())

    run(scenario())


def test_only_the_digest_of_a_key_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clients.db"
    text, key = new_key({Scope.ADMIN}, None, "", 0.0, None)

    async def scenario() -> None:
        async with store_at(f"sqlite:///{path}") as store:
            await store.add_key(key)

    run(scenario())
    content = b"".join(part.read_bytes() for part in tmp_path.iterdir())
    assert key.digest.encode() in content
    assert text.split("-", 2)[2].encode() not in content
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", "must be sqlite:///FILE or postgresql://"),
        ("clients.db", "must be sqlite:///FILE or postgresql://"),
        ("", "must be sqlite:///FILE or postgresql://"),
        ("sqlite://", "names no file"),
        ("sqlite://tmp/clients.db", "three slashes, or four before a whole path"),
        ("sqlite:////tmp/clients.db?mode=ro", "three slashes, or four before a whole path"),
        ("postgresql://me:hunter2@host:0/name", "port 0 must be from 1 to 65535"),
        ("postgresql://me:hunter2@host:65536/name", "port 65536 must be from 1 to 65535"),
        ("postgresql://me:hunter2@host:port/name", "must be sqlite:///FILE or postgresql://"),
    ],
)
def test_other_databases_are_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("query", ["", "?password=hunter2", "?sslmode=hunter2", "?timeout=x"])
def test_a_database_that_is_not_there_is_named_without_its_password(query: str) -> None:
    async def scenario() -> None:
        database = Database(f"postgresql://me:hunter2@127.0.0.1:1/clients{query}")
        with pytest.raises(DatabaseError, match=r"me:\*\*\*@127.0.0.1:1/clients cannot") as caught:
            await database.migrate()
        assert "hunter2" not in str(caught.value)
        await database.close()

    run(scenario())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "file").write_text("")
        database = Database(f"sqlite:///{tmp_path / 'file' / 'clients.db'}")
        with pytest.raises(DatabaseError, match=r"clients\.db cannot be used"):
            await database.migrate()
        await database.close()

    run(scenario())


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["CREATE TABLE clients (x)"], "table clients already exists"),
        (
            [
                "CREATE TABLE alembic_version (version_num TEXT)",
                "INSERT INTO alembic_version VALUES(9)",
            ],
            "Can't locate revision identified by '9'",
        ),
    ],
)
def test_a_database_of_another_program_or_a_newer_version_is_refused(
    tmp_path: Path, statements: list[str], message: str
) -> None:
    with sqlite3.connect(tmp_path / "clients.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()

    async def scenario() -> None:
        database = Database(f"sqlite:///{tmp_path / 'clients.db'}")
        with pytest.raises(DatabaseError, match=message):
            await database.migrate()
        await database.close()

    run(scenario())


def test_no_thread_outlives_a_database_that_could_not_be_opened(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database(f"sqlite:///{tmp_path}")  # a folder
        with pytest.raises(DatabaseError, match="unable to open database file"):
            await database.migrate()
        await database.close()
        assert threading.active_count() <= before + 1  # the thread that waited for the others

    before = threading.active_count()
    run(scenario())

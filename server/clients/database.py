"""The connection to the clients' database: SQLite in a file, or PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any
from weakref import WeakSet

import aiosqlite
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server.clients.patience import patience
from server.errors import DatabaseError
from server.settings import SettingsError

_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg"}
_POOL_SIZE = 4  # the poll, the leases, and administration
_CONNECT_S = 2.0  # a database that does not answer is away
_ANSWER_S = 10.0  # for a transaction
_MIGRATE_S = 60.0  # for one that may have to wait until another replica has migrated
_DRIVER_S = 10.0  # the driver's own timeouts: they end what is left to do after one of ours
_END_S = 6.0  # for threads to end: SQLite waits 5 s for a lock
_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x72686561  # of migrations, on PostgreSQL: any number that others do not use


class Database:
    """Transactions; whatever keeps one from being made is one error."""

    def __init__(self, url: str) -> None:
        """Create a database that is not yet connected to.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/NAME``.

        Raises:
            SettingsError: If it is neither, or the driver is not installed.
        """
        self._url = _with_driver(url)
        self._threads: WeakSet[Thread] = WeakSet()  # of SQLite's connections, one each
        self._engine = _engine(self._url, self._threads)
        self._writer = self._engine.execution_options(is_writing=True)

    @property
    def is_shared(self) -> bool:
        """Whether other replicas may spend from the same quotas."""
        return self._url.get_backend_name() == "postgresql"

    def __str__(self) -> str:
        """Return where it is, without the password, which may also stand in the query."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Run what only reads.

        Raises:
            DatabaseError: If the database cannot be reached.
        """
        async with self._transaction(self._engine, _ANSWER_S) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Run a transaction, committed at the end of the block.

        Raises:
            DatabaseError: If the database cannot be reached.
        """
        async with self._transaction(self._writer, _ANSWER_S) as connection:
            yield connection

    async def migrate(self) -> None:
        """Bring the schema up to date; replicas that start together take turns.

        Raises:
            DatabaseError: If the database cannot be reached or written, or is another program's
                or a newer version's.
        """
        if self._url.get_backend_name() == "sqlite":
            try:
                Path(self._url.database or "").parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._unusable(error) from error
        async with self._transaction(self._writer, _MIGRATE_S) as connection:
            if self.is_shared:
                await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            try:
                await connection.run_sync(_upgrade)
            except CommandError as error:
                raise self._unusable(error) from error

    async def close(self) -> None:
        """Close every connection, also those that could not be made."""
        await self._engine.dispose()
        # A thread that answers an event loop which is closed by then would end with a traceback.
        await asyncio.to_thread(_join, list(self._threads))

    @asynccontextmanager
    async def _transaction(
        self, engine: AsyncEngine, limit_s: float
    ) -> AsyncIterator[AsyncConnection]:
        try:
            async with patience(limit_s), AsyncExitStack() as stack:
                try:
                    async with patience(_CONNECT_S):
                        connection = await stack.enter_async_context(engine.connect())
                # What is wrong with parts of an URL, drivers say as Python does.
                except (TypeError, ValueError, OverflowError) as error:
                    raise self._unusable(error) from error
                await stack.enter_async_context(connection.begin())
                yield connection
        # Drivers raise some errors of connecting as they come from the system.
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> DatabaseError:
        reason = str(getattr(error, "orig", None) or error) or "it does not answer"
        return DatabaseError(f"database={self} cannot be used: {reason.splitlines()[0]}")


def _join(threads: Collection[Thread]) -> None:
    deadline = monotonic() + _END_S
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))


def _with_driver(text: str) -> URL:
    rule = "must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
    try:
        url = make_url(text)
        backend, driver = url.get_backend_name(), _DRIVERS[url.get_backend_name()]
        has_port = url.port is None or 0 < url.port < 65536
    except (ArgumentError, KeyError, ValueError):
        raise SettingsError(f"database {rule}") from None  # unread: it may hold a password
    if not has_port:
        raise SettingsError(f"database: port {url.port} must be from 1 to 65535")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise SettingsError(f"database={text} names no file; it {rule}")
    if backend == "sqlite" and (url.host or url.query):
        raise SettingsError(f"database={text} {rule}: three slashes, or four before a whole path")
    if importlib.util.find_spec(driver) is None:
        raise SettingsError(f"database: {driver} is missing; pip install 'rheostat[postgres]'")
    return url.set(drivername=f"{backend}+{driver}")


def _engine(url: URL, threads: WeakSet[Thread]) -> AsyncEngine:
    if url.get_backend_name() == "postgresql":
        return create_async_engine(
            url,
            pool_size=_POOL_SIZE,
            max_overflow=0,
            pool_timeout=_DRIVER_S,
            connect_args={"timeout": _DRIVER_S, "command_timeout": _DRIVER_S},
        )

    async def connected(*args: Any, **options: Any) -> aiosqlite.Connection:
        connection = aiosqlite.connect(*args, **options)
        connection._thread.daemon = True  # as SQLAlchemy does where it connects by itself
        threads.add(connection._thread)
        return await connection

    engine = create_async_engine(url, connect_args={"async_creator_fn": connected})

    # Transactions are begun by hand: the driver would not begin one before a change of the schema.
    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        # A lock taken at once cannot be refused halfway.
        is_writing = connection.get_execution_options().get("is_writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    return engine


def _upgrade(connection: Any) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # else it speaks at every start
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

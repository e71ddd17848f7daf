"""Clients of one server: the store, the copy in memory, and quotas, wired together."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from server.clients.counters import ClientCounters
from server.clients.database import Database
from server.clients.directory import Directory
from server.clients.keys import Key, Scope, check_id, check_new, new_key
from server.clients.leases import LeasedMeters
from server.clients.ledger import Ledger
from server.clients.local import LocalMeters
from server.clients.quotas import Meters, Quotas
from server.clients.store import Store
from server.settings import Settings


class Clients:
    """What the application needs of clients.

    Attributes:
        store: The database, for administration.
        directory: What requests are checked against.
        quotas: Charges them.
    """

    def __init__(
        self,
        database: Database,
        max_clients: int,
        counters: ClientCounters,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        num_processes: int = 1,
    ) -> None:
        """Wire everything; nothing is read yet.

        Args:
            database: Of clients, keys and quotas.
            max_clients: That can be stored.
            counters: Told what is charged and refused.
            clock: Returns Unix time in seconds.
            timer: Returns seconds since whenever; nobody sets it.
            num_processes: Of this server, that spend from the same quotas.
        """
        self._database = database
        self._counters = counters
        self._clock = clock
        ledger = Ledger(database)
        self._meters: Meters = (
            LeasedMeters(ledger, clock, timer)
            if database.is_shared or num_processes > 1
            else LocalMeters(ledger, clock)
        )
        self.store = Store(database, max_clients)
        self.directory = Directory(self.store, clock, timer, self._change)
        self.quotas = Quotas(self._meters, counters)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Migrate, read everything and keep up with changes while the block runs.

        Raises:
            DatabaseError: If the database cannot be used.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._database.close)
            await self._database.migrate()
            await self._meters.start()
            stack.push_async_callback(self._meters.close)
            await self.directory.start()
            stack.push_async_callback(self.directory.close)
            yield

    @classmethod
    def of(cls, settings: Settings, counters: ClientCounters) -> Clients:
        """Return the clients of the database that the settings name.

        Raises:
            SettingsError: If they name none.
        """
        return cls(
            Database(settings.database_url),
            settings.max_clients,
            counters,
            num_processes=settings.num_http_workers,
        )

    async def create_key(
        self, scopes: Collection[Scope], client: str | None, label: str, expires_in_s: float | None
    ) -> tuple[str, Key]:
        """Make and store a key; return its text, which is kept nowhere, and its record.

        Raises:
            InvalidRequestError: As `check_new`.
            UnknownClientError: If its client is not stored.
            ConflictError: If its client has too many.
        """
        check_new(client, label, expires_in_s)
        now = self._clock()
        expires = None if expires_in_s is None else now + expires_in_s
        text, key = new_key(scopes, client, label, now, expires)
        await self.store.add_key(key)
        await self.directory.refresh()
        return text, key

    async def revoke_key(self, key_id: str) -> None:
        """Make a key worthless.

        Raises:
            UnknownKeyError: If there is none of that id.
        """
        check_id(key_id)
        await self.store.revoke_key(key_id, self._clock())
        await self.directory.refresh()

    def _change(self, client_ids: Collection[str]) -> None:
        self._counters.watch(client_ids)
        self._meters.keep(client_ids)

"""Clients and keys in the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row, delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.clients import tables
from server.clients.database import Database
from server.clients.keys import Key, Scope
from server.clients.profile import ClientProfile
from server.errors import (
    ConflictError,
    UnknownClientError,
    UnknownKeyError,
    shown,
)

MAX_KEYS_PER_CLIENT = 32  # that are good; those of nobody count as one client's
MAX_ENDED_KEYS = 32  # of a client that are listed: those that ended last
_KEPT_S = 30 * 86_400.0  # keys that ended are listed for so long at most
_PROFILE = TypeAdapter(ClientProfile)


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new since a revision.

    Attributes:
        revision: To ask from the next time.
        clients: New and changed profiles, by id.
        client_ids: All that there are.
        keys: New and changed keys.
        key_ids: All that there are.
    """

    revision: int
    clients: Mapping[str, ClientProfile]
    client_ids: frozenset[str]
    keys: tuple[Key, ...]
    key_ids: frozenset[str]


class Store:
    """Reads and writes; holds nothing."""

    def __init__(self, database: Database, max_clients: int) -> None:
        """Keep the database.

        Args:
            database: Migrated before anything is read.
            max_clients: More are not stored: every replica holds all of them.
        """
        self._database = database
        self._max_clients = max_clients

    async def changes(self, since: int) -> Changes | None:
        """Return what has changed since a revision; None if nothing has.

        Raises:
            DatabaseError: If the database is away; so do all others.
        """
        async with self._database.reading() as connection:
            revision = (await connection.execute(select(tables.revisions.c.value))).scalar_one()
            if revision == since:
                return None
            clients, keys = tables.clients, tables.keys
            # Rows newer than the revision just read come again the next time.
            return Changes(
                revision,
                {
                    row.id: _PROFILE.validate_python(row.profile)
                    for row in await _rows(connection, clients, clients.c.revision > since)
                },
                frozenset((await connection.execute(select(clients.c.id))).scalars()),
                tuple(_key(row) for row in await _rows(connection, keys, keys.c.revision > since)),
                frozenset((await connection.execute(select(keys.c.id))).scalars()),
            )

    async def clients(self) -> dict[str, ClientProfile]:
        """Return all clients, by id."""
        async with self._database.reading() as connection:
            rows = await _rows(connection, tables.clients)
        return {row.id: _PROFILE.validate_python(row.profile) for row in rows}

    async def client(self, client_id: str) -> ClientProfile:
        """Return one client.

        Raises:
            UnknownClientError: If there is none of that id.
        """
        async with self._database.reading() as connection:
            rows = await _rows(connection, tables.clients, tables.clients.c.id == client_id)
        if not rows:
            raise _unknown_client(client_id)
        profile: ClientProfile = _PROFILE.validate_python(rows[0].profile)
        return profile

    async def put_client(self, client_id: str, profile: ClientProfile) -> bool:
        """Store a client, new or in place of what is stored; return whether it is new.

        Raises:
            ConflictError: If there are too many.
        """
        clients = tables.clients
        values = {"profile": _PROFILE.dump_python(profile, mode="json")}
        async with self._database.writing() as connection:
            values["revision"] = await _next_revision(connection)
            found = await connection.execute(
                update(clients).where(clients.c.id == client_id).values(values)
            )
            if found.rowcount:
                return False
            count = await connection.execute(select(func.count()).select_from(clients))
            if count.scalar_one() >= self._max_clients:
                raise ConflictError(
                    f"there are {self._max_clients} clients already (max_clients); delete one"
                )
            await connection.execute(insert(clients).values(id=client_id, **values))
        return True

    async def delete_client(self, client_id: str) -> None:
        """Delete a client with its keys and what it has spent.

        Raises:
            UnknownClientError: If there is none of that id.
        """
        async with self._database.writing() as connection:
            await _next_revision(connection)
            found = await connection.execute(
                delete(tables.clients).where(tables.clients.c.id == client_id)
            )
            if not found.rowcount:
                raise _unknown_client(client_id)
            await connection.execute(
                delete(tables.meters).where(tables.meters.c.client == client_id)
            )

    async def keys(self) -> list[Key]:
        """Return all keys, oldest first, also those that ended within a month."""
        async with self._database.reading() as connection:
            return sorted(
                (_key(row) for row in await _rows(connection, tables.keys)),
                key=lambda key: (key.created, key.id),
            )

    async def add_key(self, key: Key) -> None:
        """Store a key, and forget those that ended long ago, or before many others of its client.

        Raises:
            UnknownClientError: If its client is not stored.
            ConflictError: If its client has too many that are good.
        """
        keys, clients = tables.keys, tables.clients
        async with self._database.writing() as connection:
            revision = await _next_revision(connection)
            long_ago = key.created - _KEPT_S
            await connection.execute(
                delete(keys).where(or_(keys.c.revoked < long_ago, keys.c.expires < long_ago))
            )
            if key.client is not None and not await _rows(
                connection, clients, clients.c.id == key.client
            ):
                raise _unknown_client(key.client)
            own = [_key(row) for row in await _rows(connection, keys, keys.c.client == key.client)]
            ended = {one.id: at for one in own if (at := one.ended(key.created)) is not None}
            if len(own) - len(ended) >= MAX_KEYS_PER_CLIENT:
                raise ConflictError(
                    f"{MAX_KEYS_PER_CLIENT} keys of this client are good already, and no client "
                    "may have more; revoke one"
                )
            surplus = sorted(ended, key=ended.__getitem__)[:-MAX_ENDED_KEYS]
            await connection.execute(delete(keys).where(keys.c.id.in_(surplus)))
            await connection.execute(
                insert(keys).values(
                    id=key.id,
                    digest=key.digest,
                    scopes=sorted(key.scopes),
                    client=key.client,
                    label=key.label,
                    created=key.created,
                    expires=key.expires,
                    revision=revision,
                )
            )

    async def revoke_key(self, key_id: str, now: float) -> None:
        """Make a key worthless; again is no error.

        Raises:
            UnknownKeyError: If there is none of that id.
        """
        keys = tables.keys
        async with self._database.writing() as connection:
            revision = await _next_revision(connection)
            found = await connection.execute(
                update(keys)
                .where(keys.c.id == key_id)
                .values(revoked=func.coalesce(keys.c.revoked, now), revision=revision)
            )
            if not found.rowcount:
                raise UnknownKeyError(f"key {shown(key_id)} is not known", "key")

    async def note_use(self, last_used: Mapping[str, float]) -> None:
        """Write when keys were used last, by id. No revision: nobody has to read it again."""
        keys = tables.keys
        async with self._database.writing() as connection:
            for key_id, used in sorted(last_used.items()):
                await connection.execute(
                    update(keys).where(keys.c.id == key_id).values(last_used=used)
                )


async def _next_revision(connection: AsyncConnection) -> int:
    row = tables.revisions
    taken = update(row).values(value=row.c.value + 1).returning(row.c.value)
    value: int = (await connection.execute(taken)).scalar_one()
    return value


async def _rows(connection: AsyncConnection, table: Any, *where: Any) -> list[Row[Any]]:
    return list((await connection.execute(select(table).where(*where))).all())


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        digest=row.digest,
        scopes=frozenset(map(Scope, row.scopes)),
        client=row.client,
        label=row.label,
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        last_used=row.last_used,
    )


def _unknown_client(client_id: str) -> UnknownClientError:
    return UnknownClientError(f"client {shown(client_id)} is not known", "client")

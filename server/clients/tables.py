"""The tables of clients, keys and quotas; `migrations` brings a database to them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
)

metadata = MetaData()

# One row. Every change of a client or key takes the next value, and with it the row's lock: changes
# are committed in the order of their revisions, so that none is missed by who has seen a later one.
revisions = Table(
    "revisions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)

clients = Table(
    "clients",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("profile", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False, index=True),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("client", String(64), ForeignKey("clients.id", ondelete="CASCADE"), index=True),
    Column("label", String(200), nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    Column("last_used", Double),
    Column("revision", BigInteger, nullable=False, index=True),
)

meters = Table(
    "meters",
    metadata,
    Column("client", String(64), primary_key=True),  # no foreign key: spending locks no client
    Column("quota", String(32), primary_key=True),
    Column("spent", Double, nullable=False),
    Column("since", Double, nullable=False),
)

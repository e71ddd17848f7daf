"""``strict: false`` was what nobody had set; now it says that load may make subnets smaller."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_CLIENTS = sa.table(
    "clients", sa.column("id", sa.String), sa.column("profile", sa.JSON), sa.column("revision")
)


def upgrade() -> None:
    """Make it unset in stored clients."""
    _replace(False, None)


def downgrade() -> None:
    """Make what is unset false again."""
    _replace(None, False)


def _replace(old: bool | None, new: bool | None) -> None:
    connection = op.get_bind()
    for id_, profile in connection.execute(sa.select(_CLIENTS.c.id, _CLIENTS.c.profile)).all():
        for budget in (profile["budget"], profile["maximum"]):
            if budget["strict"] is old:
                budget["strict"] = new
        change = sa.update(_CLIENTS).where(_CLIENTS.c.id == id_).values(profile=profile)
        connection.execute(change)

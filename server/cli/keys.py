"""`rheostat keys`: keys made, listed and revoked at the database, with or without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from prometheus_client import CollectorRegistry

from server.clients.clients import Clients
from server.clients.counters import ClientCounters
from server.clients.keys import LEAST_LIFE_S, MOST_LIFE_S, Key, Scope
from server.errors import InvalidRequestError, RheostatError
from server.settings import PREFIX, Settings, SettingsError

T = TypeVar("T")

keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

_DAY_S = 86_400
_Database = Annotated[
    str | None,
    typer.Option("--database", help=f"Where keys are kept. [{PREFIX}DATABASE]"),
]


@keys.callback()
def _group() -> None:
    """Make, list and revoke API keys."""


@keys.command()
def create(
    scope: Annotated[list[Scope], typer.Option(help="What it opens; may be given several times.")],
    client: Annotated[
        str | None, typer.Option(help="Whose it is. Default: nobody's, which inherits nothing.")
    ] = None,
    label: Annotated[str, typer.Option(help="What people call it.")] = "",
    expires_days: Annotated[
        float | None, typer.Option(help="Default: never.", show_default=False)
    ] = None,
    database: _Database = None,
) -> None:
    """Make a key and print it, this once; only its hash is stored."""
    expires_in_s = None if expires_days is None else _DAY_S * expires_days
    if expires_in_s is not None and not LEAST_LIFE_S <= expires_in_s <= MOST_LIFE_S:
        raise _stop(
            f"--expires-days={expires_days:g} must be a second ({LEAST_LIFE_S / _DAY_S:.1e}) at "
            f"least and {MOST_LIFE_S / _DAY_S:.0f} at most",
            2,
        )

    async def make(clients: Clients) -> tuple[str, Key]:
        return await clients.create_key(set(scope), client, label, expires_in_s)

    text, key = _with_clients(database, make)
    typer.echo(text)
    typer.echo(f"id {key.id}; keep the key, it is not shown again", err=True)


@keys.command("list")
def list_keys(database: _Database = None) -> None:
    """List all keys, without their secrets."""
    for key in _with_clients(database, lambda clients: clients.store.keys()):
        ended = "revoked" if key.revoked else f"expires {_date(key.expires)}" if key.expires else ""
        fields = (
            key.id,
            ",".join(sorted(key.scopes)),
            key.client or "-",
            f"created {_date(key.created)}",
            f"used {_date(key.last_used)}" if key.last_used else "never used",
            ended,
            key.label,
        )
        typer.echo("  ".join(field for field in fields if field))


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, as `list` shows it.")],
    database: _Database = None,
) -> None:
    """Make a key worthless; servers that run refuse it within a second."""
    _with_clients(database, lambda clients: clients.revoke_key(key))


def _with_clients(url: str | None, action: Callable[[Clients], Awaitable[T]]) -> T:
    async def run() -> T:
        settings = Settings.of() if url is None else Settings.of(database=url)
        clients = Clients.of(settings, ClientCounters(CollectorRegistry()))
        async with clients.running():
            return await action(clients)

    try:
        return asyncio.run(run())
    except (InvalidRequestError, SettingsError) as error:
        raise _stop(str(error), 2) from None
    except RheostatError as error:
        raise _stop(str(error), 1) from None


def _stop(message: str, code: int) -> typer.Exit:
    typer.echo(f"rheostat: {message}", err=True)
    return typer.Exit(code)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")

"""A connection to a server, or to the same application in this process; errors as exit codes."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from server.cli.wishes import missing_client
from server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from rheostat import APIError, AsyncClient

T = TypeVar("T")

_HERE = "http://rheostat.here"  # whom nobody asks: the application is called


class Ended(IntEnum):
    """How a command ends that has no answer; 0 is an answer."""

    FAILED = 1  # the server, or the models here
    WRONG = 2  # what was asked
    INFEASIBLE = 3  # no subnet meets the budget
    DENIED = 4  # the key
    BUSY = 5  # overload, a quota, or a deadline
    AWAY = 6  # no server answers there


@dataclass(frozen=True)
class Where:
    """Whom to ask.

    Attributes:
        url: Of a server; None to run models here.
        key: Of the server.
        folder: Of checkpoints to run here; None for those shipped.
        model: That will be asked, so that no other is loaded; None if it is not named.
    """

    url: str | None
    key: str | None
    folder: Path | None
    model: str | None


def asked(where: Where, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """Do some work with a client, and end the command with a line and a code if it fails.

    Raises:
        typer.Exit: With a code of `Ended`.
    """
    try:
        from httpx import TransportError

        from rheostat import APIError
    except ModuleNotFoundError:
        raise missing_client() from None

    async def run() -> T:
        async with _client(where) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except APIError as error:
        raise _stop(error.message, _code(error)) from None
    except TransportError as error:
        raise _stop(f"no server answers at {where.url}: {error}", Ended.AWAY) from None
    except (ValueError, OSError) as error:  # of settings and checkpoints, which name what is wrong
        raise _stop(str(error), Ended.WRONG) from None


@asynccontextmanager
async def _client(where: Where) -> AsyncIterator[AsyncClient]:
    from rheostat import AsyncClient

    if where.url is not None:
        async with AsyncClient(where.url, where.key) as client:
            yield client
        return
    from httpx import ASGITransport

    from server.app import create_app
    from server.observe.progress import ProgressDisplay

    logging.getLogger("server").setLevel(logging.ERROR)  # that nobody needs a key, for instance
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings.of(
            models=_checkpoint(where),
            host="127.0.0.1",
            database=f"sqlite:///{scratch}/clients.db",  # here nobody has keys or quotas
            policy="fixed",
            ui=False,
        )
        app = create_app(settings, ProgressDisplay.on_terminal())
        async with (
            app.router.lifespan_context(app),
            AsyncClient(_HERE, transport=ASGITransport(app)) as client,
        ):
            yield client


def _checkpoint(where: Where) -> Path | None:
    """Return the checkpoint of the model that is asked, or the folder that may have it."""
    from models.checkpoint import CheckpointError, read_manifest
    from server.catalog import find_checkpoints

    if where.model is not None:
        try:
            for path in find_checkpoints(where.folder or Settings.of().models_folder):
                if read_manifest(path).name == where.model:
                    return path
        except CheckpointError as error:
            raise SettingsError(str(error)) from None
    return where.folder


def _code(error: APIError) -> Ended:
    from rheostat import (
        AuthenticationError,
        DeadlineError,
        InfeasibleBudgetError,
        InvalidRequestError,
        OverloadedError,
    )

    match error:
        case InfeasibleBudgetError():
            return Ended.INFEASIBLE
        case AuthenticationError():
            return Ended.DENIED
        case OverloadedError() | DeadlineError():
            return Ended.BUSY
        case InvalidRequestError():
            return Ended.WRONG
    return Ended.FAILED


def _stop(message: str, code: Ended) -> typer.Exit:
    typer.echo(f"rheostat: {message}", err=True)
    return typer.Exit(code)

"""The command line: `rheostat serve`, `infer`, `models`, `train`, `elasticize` and others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from inspect import Parameter, Signature, signature
from pathlib import Path
from socket import socket
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_origin

import torch
import typer
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from models.checkpoint import CheckpointError, read_manifest
from server.app import create_app
from server.catalog import CatalogError, find_checkpoints
from server.cli import asking, calibrating
from server.cli.adapter_training import adapted
from server.cli.adapting import adapt
from server.cli.adding_static import static
from server.cli.commands import convert, extract, ladder, train
from server.cli.cut_training import cuts
from server.cli.dataset import dataset
from server.cli.dual_training import dual
from server.cli.elasticizing import elasticize
from server.cli.experts_training import experts
from server.cli.exporting import export
from server.cli.keys import keys
from server.cli.measuring import measure
from server.cli.mixed_training import mixed
from server.cli.modalities_training import modalities
from server.cli.pairs_training import pairs
from server.cli.quantizing import quantize
from server.cli.searching import search
from server.cli.tokens_training import tokens
from server.cli.vision_training import vision
from server.engine.process.remote import RemoteCore
from server.errors import DatabaseError
from server.http import addresses, serving
from server.http.auth import check_exposure
from server.observe import logs
from server.observe.progress import ProgressDisplay
from server.processes import child
from server.processes.engine import EngineProcess
from server.processes.workers import HttpWorkers
from server.settings import PREFIX, Settings, SettingsError

Command = TypeVar("Command", bound=Callable[..., None])

log = logging.getLogger("server")

cli = typer.Typer(
    name="rheostat",
    help="A runtime-adaptive inference server with budget-aware model slicing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _takes(*names: str) -> Callable[[Command], Command]:
    """Give a command an option per setting named, in place of its keywords; for all if none is.

    An option has the name, text and default of its setting, and is None where it is not given.
    """

    def add_options(command: Command) -> Command:
        own = signature(command, eval_str=True).parameters.values()
        options = [_option(name) for name in names or Settings.model_fields]
        kept = [one for one in own if one.kind is not Parameter.VAR_KEYWORD]
        command.__signature__ = Signature(options + kept)  # type: ignore[attr-defined]
        return command

    return add_options


def _option(name: str) -> Parameter:
    field = Settings.model_fields[name]
    # `Settings` judges choices, from wherever they come.
    kind: Any = str if get_origin(field.annotation) is Literal else field.annotation
    option = typer.Option(
        help=f"{field.description} [{PREFIX}{name.upper()}]",
        show_default=False if field.default is None else str(field.default),
    )
    annotation = Annotated[kind | None, option]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


@cli.command()
@_takes()
def serve(**given: Any) -> None:
    """Serve the models of a folder. An option goes before its environment variable."""
    settings = _settings(given)
    logs.configure(settings.log_format, settings.log_level)
    with ExitStack() as bound:
        try:
            asyncio.run(check_exposure(settings))
            sockets = addresses.bound(settings.host, settings.port)
            for one in sockets:
                bound.enter_context(one)
            if settings.grpc_port is not None:
                addresses.check_grpc(settings.host, settings.grpc_port)
            # A bar would be no line of JSON.
            progress = (
                ProgressDisplay.on_terminal()
                if settings.log_format == "console"
                else ProgressDisplay()
            )
            app = _app(settings, progress, sockets, bound)
        except SettingsError as error:
            _stop(str(error), 2)
        except addresses.AddressError as error:
            _stop(str(error), STARTUP_FAILURE)
        except (CatalogError, DatabaseError) as error:
            _stop(str(error), 1)

        def announce() -> None:
            names = ", ".join(app.state.models)
            log.info("Rheostat serves %s on http://%s:%d", names, settings.url_host, settings.port)
            if settings.grpc_port is not None:
                log.info("gRPC on %s:%d", settings.url_host, settings.grpc_port)

        serving.serve(app, settings, app.state.drain, sockets, announce)


def _app(
    settings: Settings, progress: ProgressDisplay, sockets: list[socket], bound: ExitStack
) -> FastAPI:
    """Return the application of this process, and start the others that the settings ask for."""
    if not settings.num_http_workers:
        return create_app(settings, progress)
    child.prepare()
    torch.set_num_threads(1)  # models run elsewhere
    engine = bound.enter_context(EngineProcess(settings))
    app = create_app(settings, progress, RemoteCore(engine.path, settings.num_http_workers > 1))
    engine.wait_until_ready()
    workers = bound.enter_context(HttpWorkers(settings, sockets, engine.path))
    drain = app.state.drain

    def drain_all() -> None:
        drain()
        workers.terminate()

    app.state.drain = drain_all
    return app


@cli.command()
def models(
    folder: Annotated[Path | None, typer.Argument(help="Default: those shipped.")] = None,
) -> None:
    """List the checkpoints of a folder."""
    settings = _settings({"models": folder})
    try:
        for path in find_checkpoints(settings.models_folder):
            manifest = read_manifest(path)
            size = sum(record.bytes for record in manifest.files.values()) / 1e6
            print(f"{manifest.name}  {manifest.family}  {manifest.version}  {size:.1f} MB  {path}")
    except (CatalogError, CheckpointError) as error:
        _stop(str(error), 1)


@cli.command()
@_takes("models", "device", "backend", "max_session_bytes", "num_threads", "profiles")
def calibrate(
    *, seed: Annotated[int, typer.Option(help="Of the runs that are compared.")] = 0, **given: Any
) -> None:
    """Measure how long the models' steps take here, and how well that predicts whole runs."""
    try:
        for report in calibrating.calibrate(_settings(given), seed):
            print(report, flush=True)
    except SettingsError as error:
        _stop(str(error), 2)
    except CatalogError as error:
        _stop(str(error), 1)


train.command()(adapted)
train.command()(cuts)
train.command()(dual)
train.command()(experts)
train.command()(mixed)
train.command()(modalities)
train.command()(pairs)
train.command()(vision)
train.command()(tokens)
cli.add_typer(train, name="train")
cli.add_typer(keys, name="keys")
for _command in asking.COMMANDS:
    cli.command()(_command)
cli.command()(convert)
cli.command()(elasticize)
cli.command()(static)
cli.command()(measure)
cli.command()(quantize)
cli.command()(ladder)
cli.command()(extract)
cli.command()(dataset)
cli.command()(adapt)
cli.command()(export)
cli.command()(search)


def _settings(options: dict[str, Any]) -> Settings:
    try:
        return Settings.of(**{name: value for name, value in options.items() if value is not None})
    except SettingsError as error:
        _stop(str(error), 2)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"rheostat: {message}", err=True)
    raise typer.Exit(code)

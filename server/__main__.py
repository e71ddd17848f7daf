"""The command line: `rheostat serve`, `models`, `calibrate`, `train` and `convert`."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from models.checkpoint import CheckpointError, read_manifest
from server import calibrating, logs, serving
from server.access import check_exposure
from server.app import create_app
from server.catalog import CatalogError, find_checkpoints
from server.commands import convert, train
from server.errors import DatabaseError
from server.keys_commands import keys
from server.settings import PREFIX, Settings, SettingsError

log = logging.getLogger("server")

cli = typer.Typer(
    name="rheostat",
    help="A runtime-adaptive inference server with budget-aware model slicing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _option(name: str) -> Any:
    """Return the option of a setting; its text and default are those of `Settings`."""
    field = Settings.model_fields[name]
    default = False if field.default is None else str(field.default)
    return typer.Option(help=f"{field.description} [{PREFIX}{name.upper()}]", show_default=default)


@cli.command()
def serve(
    context: typer.Context,
    models: Annotated[Path | None, _option("models")] = None,
    host: Annotated[str | None, _option("host")] = None,
    port: Annotated[int | None, _option("port")] = None,
    grpc_port: Annotated[int | None, _option("grpc_port")] = None,
    device: Annotated[str | None, _option("device")] = None,
    backend: Annotated[str | None, _option("backend")] = None,
    max_session_bytes: Annotated[int | None, _option("max_session_bytes")] = None,
    num_threads: Annotated[int | None, _option("num_threads")] = None,
    max_body_bytes: Annotated[int | None, _option("max_body_bytes")] = None,
    max_images: Annotated[int | None, _option("max_images")] = None,
    max_batch_size: Annotated[int | None, _option("max_batch_size")] = None,
    max_queue: Annotated[int | None, _option("max_queue")] = None,
    policy: Annotated[str | None, _option("policy")] = None,
    target_delay_ms: Annotated[float | None, _option("target_delay_ms")] = None,
    max_wait_ms: Annotated[float | None, _option("max_wait_ms")] = None,
    max_cache_bytes: Annotated[int | None, _option("max_cache_bytes")] = None,
    profiles: Annotated[Path | None, _option("profiles")] = None,
    database: Annotated[str | None, _option("database")] = None,
    database_grace_s: Annotated[float | None, _option("database_grace_s")] = None,
    max_clients: Annotated[int | None, _option("max_clients")] = None,
    open: Annotated[bool | None, _option("open")] = None,
    drain_s: Annotated[float | None, _option("drain_s")] = None,
    grace_s: Annotated[float | None, _option("grace_s")] = None,
    traces: Annotated[str | None, _option("traces")] = None,
    log_format: Annotated[str | None, _option("log_format")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
) -> None:
    """Serve the models of a folder. An option goes before its environment variable."""
    settings = _settings(context.params)
    logs.configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(check_exposure(settings))
        app = create_app(settings)
    except SettingsError as error:
        _stop(str(error), 2)
    except (CatalogError, DatabaseError) as error:
        _stop(str(error), 1)
    names = ", ".join(app.state.models)
    log.info("Rheostat serves %s on http://%s:%d", names, settings.url_host, settings.port)
    if settings.grpc_port is not None:
        log.info("gRPC on %s:%d", settings.url_host, settings.grpc_port)
    serving.serve(app, settings, app.state.drain)


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
def calibrate(
    models: Annotated[Path | None, _option("models")] = None,
    device: Annotated[str | None, _option("device")] = None,
    backend: Annotated[str | None, _option("backend")] = None,
    max_session_bytes: Annotated[int | None, _option("max_session_bytes")] = None,
    num_threads: Annotated[int | None, _option("num_threads")] = None,
    profiles: Annotated[Path | None, _option("profiles")] = None,
    seed: Annotated[int, typer.Option(help="Of the runs that are compared.")] = 0,
) -> None:
    """Measure how long the models' steps take here, and how well that predicts whole runs."""
    given = {name: value for name, value in locals().items() if name != "seed"}
    try:
        for report in calibrating.calibrate(_settings(given), seed):
            print(report, flush=True)
    except SettingsError as error:
        _stop(str(error), 2)
    except CatalogError as error:
        _stop(str(error), 1)


cli.add_typer(train, name="train")
cli.add_typer(keys, name="keys")
cli.command()(convert)


def _settings(options: dict[str, Any]) -> Settings:
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        faults = (
            f"{fault['loc'][0]}={fault['input']}: {fault['msg']}" if fault["loc"] else fault["msg"]
            for fault in error.errors(include_url=False)
        )
        _stop("; ".join(faults), 2)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"rheostat: {message}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """Run the command line."""
    cli()


if __name__ == "__main__":
    main()

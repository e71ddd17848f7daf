"""`rheostat train`: one subcommand per family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from models.core import Subnet
from models.train.slimmable import Recipe
from server.settings import data_folder
from server.training import train_slimmable

train = typer.Typer(help="Train an elastic model.", no_args_is_help=True)

_DEFAULT = Recipe()


@train.callback()
def _group() -> None:
    """Train an elastic model."""


@train.command()
def slimmable(
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    data: Annotated[str, typer.Option(help="Data set: cifar100.")] = "cifar100",
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "cifar100-mtl",
    epochs: Annotated[int, typer.Option(min=1)] = _DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(min=1)] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULT.learning_rate,
    ci_kd: Annotated[float, typer.Option(min=0, help="Weight of CI-KD; 0: none.")] = _DEFAULT.ci_kd,
    random_subnets: Annotated[int, typer.Option(min=0)] = _DEFAULT.random_subnets,
    only: Annotated[
        str | None,
        typer.Option(help='A static network: JSON of every axis, {"encoder.stage1": 0.5, ...}.'),
    ] = None,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train the slimmable multi-task classifier and write a checkpoint with its table."""
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ci_kd=ci_kd,
        random_subnets=random_subnets,
        only=Subnet(json.loads(only)) if only else None,
        seed=seed,
    )
    try:
        if data != "cifar100":
            raise ValueError(f"--data={data}: the slimmable recipe reads cifar100")
        train_slimmable(data_folder() / data, out, name, recipe, device)
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"rheostat: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

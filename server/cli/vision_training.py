"""The command `rheostat train vision`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.dense import DenseRecipe
from search.offline.vision_training import train_vision
from server.cli.failing import failing
from server.cli.recipes import takes_recipe


@takes_recipe(DenseRecipe)
def vision(
    data: Annotated[Path, typer.Option(help="Folder with a dataset.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[
        str | None, typer.Option(help="What clients will ask for. Default: the data set's name.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    *,
    recipe: DenseRecipe,
) -> None:
    """Train a dense multi-task model on a folder of images and write a checkpoint."""
    with failing():
        train_vision(data, out, name, recipe, device, typer.echo)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

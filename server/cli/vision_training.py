"""The command `rheostat train vision`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.dense import DenseRecipe
from search.offline.vision_training import train_vision
from server.cli.failing import failing

_DEFAULT = DenseRecipe()


def vision(
    data: Annotated[Path, typer.Option(help="Folder with a dataset.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[
        str | None, typer.Option(help="What clients will ask for. Default: the data set's name.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1)] = _DEFAULT.steps,
    batch_size: Annotated[int, typer.Option(min=1)] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULT.learning_rate,
    ci_kd: Annotated[float, typer.Option(min=0, help="Weight of CI-KD; 0: none.")] = _DEFAULT.ci_kd,
    random_subnets: Annotated[int, typer.Option(min=0)] = _DEFAULT.random_subnets,
    mirror: Annotated[bool, typer.Option(help="Mirror half of the images.")] = _DEFAULT.mirror,
    bfloat16: Annotated[
        bool, typer.Option(help="Compute products in bfloat16; faster where it can.")
    ] = _DEFAULT.bfloat16,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a dense multi-task model on a folder of images and write a checkpoint."""
    recipe = DenseRecipe(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ci_kd=ci_kd,
        random_subnets=random_subnets,
        mirror=mirror,
        bfloat16=bfloat16,
        seed=seed,
    )
    with failing():
        train_vision(data, out, name, recipe, device, typer.echo)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

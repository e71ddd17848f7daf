"""The command `rheostat train modalities`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.modalities import ModalityRecipe
from server.cli.failing import failing, missing
from server.cli.recipes import takes_recipe, tell_tested


@takes_recipe(ModalityRecipe)
def modalities(
    data: Annotated[Path, typer.Option(help="Folder with a dataset.toml: images and maps.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "modalities",
    inputs: Annotated[
        str | None, typer.Option(help="Inputs, joined by +. Default: image, depth and edges.")
    ] = None,
    *,
    recipe: ModalityRecipe,
) -> None:
    """Train a model of maps that reads any of several inputs: image, depth, edges."""
    try:
        from search.offline.modalities_training import told, train_modalities_of
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        tested = train_modalities_of(data, out, name, inputs, recipe, typer.echo)
    tell_tested(told(tested), out)

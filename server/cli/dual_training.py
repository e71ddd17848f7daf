"""The command `rheostat train dual`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.dual import DualRecipe
from server.cli.failing import failing, missing
from server.cli.recipes import takes_recipe, tell_tested
from server.settings import data_folder


@takes_recipe(DualRecipe, shots=1)
def dual(
    source: Annotated[Path, typer.Argument(help="Checkpoint of the family exits.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    data: Annotated[str, typer.Option(help="Texts with intents: banking77 or clinc150.")] = (
        "banking77"
    ),
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "intents",
    *,
    recipe: DualRecipe,
) -> None:
    """Put two heads on every exit of an encoder: one learns few labels, one what it is told."""
    try:
        from search.offline.dual_training import train_dual_heads
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        tested = train_dual_heads(source, data_folder(), data, out, name, recipe, typer.echo)
    tell_tested(tested, out)

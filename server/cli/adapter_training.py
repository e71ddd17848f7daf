"""The command `rheostat train adapted`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.adapters import AdapterRecipe
from server.cli.failing import failing, missing
from server.cli.recipes import takes_recipe, tell_tested
from server.settings import data_folder


@takes_recipe(AdapterRecipe)
def adapted(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "minilm-adapted",
    *,
    recipe: AdapterRecipe,
) -> None:
    """Train three adapters on a public text encoder: similarity, intents, Python functions."""
    try:
        from search.offline.adapter_training import train_adapted
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        tested = train_adapted(source, data_folder(), out, name, recipe, typer.echo)
    tell_tested(tested, out)

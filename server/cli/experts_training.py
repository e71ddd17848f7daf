"""The command `rheostat train experts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.experts import ExpertRecipe
from server.cli.failing import failing, missing
from server.cli.recipes import takes_recipe, tell_tested
from server.settings import data_folder


@takes_recipe(ExpertRecipe)
def experts(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "minilm-experts",
    *,
    recipe: ExpertRecipe,
) -> None:
    """Turn a public text encoder's units into experts of which each text has a few run."""
    try:
        from search.offline.experts_training import train_experts_of
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        tested = train_experts_of(source, data_folder(), out, name, recipe, typer.echo)
    tell_tested(tested, out)

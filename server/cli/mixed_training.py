"""The command `rheostat train mixed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.skills import SkillRecipe
from server.cli.failing import failing, missing
from server.cli.recipes import takes_recipe, tell_tested
from server.settings import data_folder


@takes_recipe(SkillRecipe)
def mixed(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "minilm-mixed",
    *,
    recipe: SkillRecipe,
) -> None:
    """Fine-tune a public text encoder for similarity and for code, and offer mixes of both."""
    try:
        from search.offline.mixed_training import train_mixed
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        tested = train_mixed(source, data_folder(), out, name, recipe, typer.echo)
    tell_tested(tested, out)

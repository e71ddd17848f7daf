"""The command `rheostat train pairs`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

from models.train.pairs_recipe import LESSONS, Lesson, PairsRecipe
from server.cli.failing import failing, missing
from server.cli.recipes import takes_recipe
from server.settings import data_folder


@takes_recipe(PairsRecipe)
def pairs(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "rerank-elastic",
    lessons: Annotated[
        str,
        typer.Option(help=f"Of {', '.join(LESSONS)}: one or several, so many steps each, in turn."),
    ] = ",".join(PairsRecipe().lessons),
    *,
    recipe: PairsRecipe,
) -> None:
    """Make a public text encoder score a query and a document, apart or reading each other."""
    try:
        from search.offline.pairs_training import train_pairs_from
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        named = cast(tuple[Lesson, ...], tuple(lessons.split(",")))
        recipe = replace(recipe, lessons=named)
        train_pairs_from(source, data_folder(), out, name, recipe, typer.echo)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

"""The command `rheostat train pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from models.train.pairs_recipe import LESSONS, Lesson, PairsRecipe
from server.cli.failing import failing, missing
from server.settings import data_folder

_DEFAULT = PairsRecipe()


def pairs(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "rerank-elastic",
    steps: Annotated[int, typer.Option(min=1)] = _DEFAULT.steps,
    queries: Annotated[int, typer.Option(min=2, help="In a step.")] = _DEFAULT.queries,
    hard: Annotated[
        int, typer.Option(min=0, help="Wrong documents of a query that the encoder finds nearest.")
    ] = _DEFAULT.hard,
    others: Annotated[
        int, typer.Option(min=0, help="Documents of other queries that are wrong for it.")
    ] = _DEFAULT.others,
    lessons: Annotated[
        str,
        typer.Option(help=f"Of {', '.join(LESSONS)}: one or several, so many steps each, in turn."),
    ] = ",".join(_DEFAULT.lessons),
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULT.learning_rate,
    reach: Annotated[
        float, typer.Option(help="How far heads see into the other text at the start: a logit.")
    ] = _DEFAULT.reach,
    max_tokens: Annotated[
        int, typer.Option(min=3, help="Training documents are cut there.")
    ] = _DEFAULT.max_tokens,
    bfloat16: Annotated[
        bool, typer.Option(help="Compute matrix products in bfloat16; twice as fast where it can.")
    ] = _DEFAULT.bfloat16,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
) -> None:
    """Make a public text encoder score a query and a document, apart or reading each other."""
    try:
        from search.offline.pairs_training import train_pairs_from
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        recipe = PairsRecipe(
            steps=steps,
            queries=queries,
            hard=hard,
            others=others,
            lessons=cast(tuple[Lesson, ...], tuple(lessons.split(","))),
            learning_rate=learning_rate,
            reach=reach,
            max_tokens=max_tokens,
            bfloat16=bfloat16,
            seed=seed,
        )
        train_pairs_from(source, data_folder(), out, name, recipe, typer.echo)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

"""The command `rheostat train pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.pairs import PairsRecipe
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
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULT.learning_rate,
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
            learning_rate=learning_rate,
            max_tokens=max_tokens,
            bfloat16=bfloat16,
            seed=seed,
        )
        train_pairs_from(source, data_folder(), out, name, recipe, typer.echo)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

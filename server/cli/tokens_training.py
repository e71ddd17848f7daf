"""The command `rheostat train tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.selectors import SelectorRecipe
from server.cli.failing import failing, missing
from server.cli.recipes import takes_recipe, tell_tested
from server.settings import data_folder


@takes_recipe(SelectorRecipe)
def tokens(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "minilm-tokens",
    *,
    recipe: SelectorRecipe,
) -> None:
    """Let a public text encoder's later layers run on a summary of each text."""
    try:
        from search.offline.tokens_training import train_tokens
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        found = train_tokens(source, data_folder(), out, name, recipe, typer.echo)
    tested = {
        f"{how}, {count} tokens": own
        for how, by_count in zip(("means", "learned"), found, strict=True)
        for count, own in by_count.items()
    }
    tell_tested(tested, out)

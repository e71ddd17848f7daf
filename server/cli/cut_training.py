"""The command `rheostat train cuts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.cuts import CutsRecipe
from server.cli.failing import failing, missing
from server.cli.recipes import takes_recipe


@takes_recipe(CutsRecipe, batch_size=2)
def cuts(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint of a text encoder, made by `rheostat elasticize`.")
    ],
    texts: Annotated[
        list[Path], typer.Option(help="Texts to learn from: .txt, one a line. May be repeated.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    *,
    recipe: CutsRecipe,
) -> None:
    """Distil a text encoder into its cuts: they learn what the whole model answers."""
    try:
        from search.offline.cut_training import train_cuts_of
        from search.offline.material import read_texts
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        every = list(dict.fromkeys(text for path in texts for text in read_texts(path)))
        found = train_cuts_of(model, every, out, recipe, typer.echo)
    for keep, one in found.items():
        typer.echo(f"keep {keep:g}: agreement {one.value:.4f} (standard error {one.stderr:.4f})")
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

"""The command `rheostat train cuts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.cuts import CutsRecipe
from server.cli.failing import failing, missing

_DEFAULT = CutsRecipe()


def cuts(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint of a text encoder, made by `rheostat elasticize`.")
    ],
    texts: Annotated[
        list[Path], typer.Option(help="Texts to learn from: .txt, one a line. May be repeated.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    steps: Annotated[int, typer.Option(min=1)] = _DEFAULT.steps,
    batch_size: Annotated[int, typer.Option(min=2)] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULT.learning_rate,
    cuts_per_step: Annotated[
        int, typer.Option(min=1, help="Cuts that learn in a step, drawn anew.")
    ] = _DEFAULT.cuts,
    max_tokens: Annotated[
        int, typer.Option(min=3, help="Training texts are cut there.")
    ] = _DEFAULT.max_tokens,
    bfloat16: Annotated[
        bool, typer.Option(help="Compute matrix products in bfloat16; faster where it can.")
    ] = _DEFAULT.bfloat16,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
) -> None:
    """Distil a text encoder into its cuts: they learn what the whole model answers."""
    try:
        from search.offline.cut_training import train_cuts_of
        from search.offline.material import read_texts
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        recipe = CutsRecipe(
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            cuts=cuts_per_step,
            max_tokens=max_tokens,
            bfloat16=bfloat16,
            seed=seed,
        )
        every = list(dict.fromkeys(text for path in texts for text in read_texts(path)))
        found = train_cuts_of(model, every, out, recipe, typer.echo)
    for keep, one in found.items():
        typer.echo(f"keep {keep:g}: agreement {one.value:.4f} (standard error {one.stderr:.4f})")
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

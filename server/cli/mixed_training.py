"""The command `rheostat train mixed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.skills import SkillRecipe
from server.cli.failing import failing, missing
from server.settings import data_folder

_DEFAULT = SkillRecipe()


def mixed(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "minilm-mixed",
    steps: Annotated[int, typer.Option(min=1, help="Of each skill.")] = _DEFAULT.steps,
    batch_size: Annotated[int, typer.Option(min=2)] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULT.learning_rate,
    max_tokens: Annotated[
        int, typer.Option(min=3, help="Training texts are cut there.")
    ] = _DEFAULT.max_tokens,
    bfloat16: Annotated[
        bool, typer.Option(help="Compute matrix products in bfloat16; twice as fast where it can.")
    ] = _DEFAULT.bfloat16,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
) -> None:
    """Fine-tune a public text encoder for similarity and for code, and offer mixes of both."""
    try:
        from search.offline.mixed_training import train_mixed
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        recipe = SkillRecipe(
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_tokens=max_tokens,
            bfloat16=bfloat16,
            seed=seed,
        )
        tested = train_mixed(source, data_folder(), out, name, recipe, typer.echo)
    for mix, own in tested.items():
        told = ", ".join(
            f"{skill} {one.value:.4f} ± {one.stderr:.4f}" for skill, one in own.items()
        )
        typer.echo(f"{mix}, test: {told}")
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

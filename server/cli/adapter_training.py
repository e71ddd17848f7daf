"""The command `rheostat train adapted`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.train.adapters import AdapterRecipe
from server.cli.failing import failing, missing
from server.settings import data_folder

_DEFAULT = AdapterRecipe()


def adapted(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "minilm-adapted",
    rank: Annotated[int, typer.Option(min=1)] = _DEFAULT.rank,
    steps: Annotated[int, typer.Option(min=1)] = _DEFAULT.steps,
    batch_size: Annotated[int, typer.Option(min=2)] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULT.learning_rate,
    nested: Annotated[bool, typer.Option(help="Draw smaller ranks too.")] = _DEFAULT.nested,
    max_tokens: Annotated[
        int, typer.Option(min=3, help="Training texts are cut there.")
    ] = _DEFAULT.max_tokens,
    bfloat16: Annotated[
        bool, typer.Option(help="Compute matrix products in bfloat16; twice as fast where it can.")
    ] = _DEFAULT.bfloat16,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
) -> None:
    """Train three adapters on a public text encoder: similarity, intents, Python functions."""
    try:
        from search.offline.adapter_training import train_adapted
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        recipe = AdapterRecipe(
            rank,
            steps,
            batch_size,
            learning_rate,
            nested=nested,
            max_tokens=max_tokens,
            bfloat16=bfloat16,
            seed=seed,
        )
        tested = train_adapted(source, data_folder(), out, name, recipe, typer.echo)
    for key, own in tested.items():
        told = ", ".join(f"{how} {one.value:.4f} ± {one.stderr:.4f}" for how, one in own.items())
        typer.echo(f"{key}, test: {told}")
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

"""`rheostat train`, one subcommand per family, and `convert` and `ladder`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from models.formats import Choices
from models.space import Subnet
from models.train.slimmable import Recipe
from models.train.text import Strategy, TextRecipe
from search.offline import extracting, laddering
from search.offline.training import train_slimmable
from server.cli.failing import failing, missing, numbers
from server.cli.recipes import takes_recipe
from server.settings import data_folder

train = typer.Typer(help="Train an elastic model.", no_args_is_help=True)

_WHOLE = "whole numbers, such as 2,4,6"


@train.callback()
def _group() -> None:
    """Train an elastic model."""


@train.command()
@takes_recipe(Recipe)
def slimmable(
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    data: Annotated[str, typer.Option(help="Data set: cifar100.")] = "cifar100",
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "cifar100-mtl",
    only: Annotated[
        str | None,
        typer.Option(help='A static network: JSON of every axis, {"encoder.stage1": 0.5, ...}.'),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="--out of an earlier run, to start from its last weights.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    *,
    recipe: Recipe,
) -> None:
    """Train the slimmable multi-task classifier and write a checkpoint with its table."""
    try:
        recipe = replace(recipe, only=Subnet(json.loads(only)) if only else None)
        if data != "cifar100":
            raise ValueError(f"--data={data}: the slimmable recipe reads cifar100")
        train_slimmable(data_folder() / data, out, name, recipe, device, init)
    except (ValueError, FileNotFoundError) as error:
        typer.echo(f"rheostat: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"done; serve it with: rheostat serve --models {out}")


@train.command()
@takes_recipe(TextRecipe, batch_size=2)
def text(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    data: Annotated[
        str, typer.Option(help="general (similarity of sentences) or pydoc-code (code search).")
    ] = "general",
    name: Annotated[str, typer.Option(help="What clients will ask for.")] = "minilm-2d",
    strategy: Annotated[
        str, typer.Option(help="Which exits learn in a step: random, pairs or hierarchical.")
    ] = TextRecipe().strategy,
    pairs: Annotated[
        str | None, typer.Option(help="Of the strategy pairs: depth:dim, such as 2:32,4:64.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="--out of an earlier run, to start from its last weights.")
    ] = None,
    *,
    recipe: TextRecipe,
) -> None:
    """Make a public text encoder elastic by distilling it into all of its exits."""
    try:
        from search.offline import text_data, text_training
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        if strategy not in get_args(Strategy):
            raise ValueError(f"--strategy={strategy} must be one of {list(get_args(Strategy))}")
        if (strategy == "pairs") != (pairs is not None):
            raise ValueError("--pairs belongs to --strategy=pairs, and it needs them")
        recipe = replace(recipe, strategy=cast(Strategy, strategy), pairs=_pairs(pairs or ""))
        if data not in text_data.DATA:
            raise ValueError(f"--data={data} must be one of {list(text_data.DATA)}")
        read = text_data.DATA[data]
        text_training.train_text(source, read(data_folder()), out, name, recipe, init)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    try:
        found = [part.split(":") for part in text.split(",") if part]
        return tuple((int(depth), int(dim)) for depth, dim in found)
    except ValueError:
        raise ValueError(f"--pairs={text} must be depth:dim, such as 2:32,4:64") from None


def convert(
    source: Annotated[Path, typer.Argument(help="sentence-transformers or Hugging Face folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    pairs: Annotated[
        Path,
        typer.Option(help="Rated pairs to measure on: TSV with sentence1, sentence2, score."),
    ],
    name: Annotated[str | None, typer.Option(help="What clients will ask for.")] = None,
    depths: Annotated[
        str | None, typer.Option(help="Exit layers, such as 2,4,6. Default: every layer.")
    ] = None,
    dims: Annotated[
        str | None, typer.Option(help="Leading dimensions on offer. Default: the whole vector.")
    ] = None,
) -> None:
    """Make a public text encoder servable: read it, measure its subnets, write a checkpoint."""
    try:
        # Rank correlation comes with the extra train, which serving does without.
        from search.offline import converting
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    choices: Choices = {}
    with failing():
        if depths is not None:
            choices["depths"] = numbers("depths", depths, int, _WHOLE)
        if dims is not None:
            choices["dims"] = numbers("dims", dims, int, _WHOLE)
        rated = converting.read_pairs(pairs)
        converting.convert(source, out, name or source.resolve().name, rated, **choices)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")


def ladder(
    members: Annotated[list[Path], typer.Argument(help="Folders of checkpoints, two or more.")],
    out: Annotated[Path, typer.Option(help="Folder of the ladder.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")],
) -> None:
    """Put models that were trained apart behind one name: the budget chooses which one answers."""
    with failing():
        laddering.ladder(members, out, name)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")


def extract(
    source: Annotated[Path, typer.Argument(help="Checkpoint of a model of experts.")],
    skill: Annotated[str, typer.Option(help="Whose experts are kept.")],
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")],
) -> None:
    """Leave out the experts that a skill does not use: it is answered as before, in less memory."""
    with failing():
        extracting.extract(source, skill, out, name)
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

"""`rheostat search`: which subnets of a model are worth serving, by measuring few of them."""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from models import checkpoint
from models.formats.supernets import FORMATS, read
from server.cli.failing import failing, missing, numbers

_WIDTHS = "numbers, such as 0.25,0.5,1"
_STATISTICS = 512  # images, at most half of those there are


def search(
    model: Annotated[Path, typer.Argument(help="Checkpoint, or with --format a public file.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    data: Annotated[
        Path,
        typer.Option(help="Images: CSV with file, label. Texts: TSV of rated pairs."),
    ],
    objectives: Annotated[
        str, typer.Option(help="quality, then of macs, ms and bytes.")
    ] = "quality,macs",
    evaluations: Annotated[int, typer.Option(min=2, help="Subnets measured in all.")] = 200,
    population: Annotated[int, typer.Option(min=2, help="Measured between two fits.")] = 50,
    minutes: Annotated[float | None, typer.Option(help="After them, no round begins.")] = None,
    format: Annotated[  # the option's name
        str | None, typer.Option(help=f"Of a public file: one of {', '.join(FORMATS)}.")
    ] = None,
    widths: Annotated[
        str | None, typer.Option(help="Of a slimmable file, in its order, such as 0.25,0.5,1.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients will ask for.")] = None,
    statistics: Annotated[
        int, typer.Option(min=1, help="Images for a convolutional subnet's statistics.")
    ] = _STATISTICS,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Search a model's subnets and write a checkpoint with those that nothing measured beats."""
    for needed in ("pymoo", "scipy", "sklearn"):  # before anything is measured
        if find_spec(needed) is None:
            raise missing(needed, "search")
    from search.offline import searching

    with failing():
        plan = searching.SearchPlan(
            tuple(objectives.split(",")), evaluations, population, seed, minutes
        )
        if format is None:
            loaded = checkpoint.load(model)
            family, found = loaded.manifest.family, loaded.model
            found.name = name or found.name
        else:
            family = "convnet"
            listed = None if widths is None else numbers("widths", widths, float, _WIDTHS)
            found = read(model, name or model.stem, format, listed)
        started = time.monotonic()
        made = searching.prepared(found, plan, data, out, statistics)
        with tqdm(desc="search", unit="subnet", total=evaluations, initial=len(made.found)) as bar:
            made.report = bar.update
            made.run(lambda: minutes is not None and time.monotonic() - started > 60 * minutes)
        files = tuple(getattr(found, "assets", ()))  # a tokenizer, for instance
        for file in files:
            if model.resolve() != out.resolve():
                shutil.copyfile(model / file, out / file)
        front = searching.write(made, family, files)
    typer.echo("  ".join(["score", "±", *plan.objectives[1:]]))
    for genes in front:
        score, values = made.scores[genes], made.found[genes][1:]
        costs = (f"{value:,.0f}" if value > 1000 else f"{value:.3g}" for value in values)
        typer.echo("  ".join([f"{score.value:.4f}", f"{score.stderr:.4f}", *costs]))
    typer.echo(f"{len(made.found)} measured, {len(front)} kept; rheostat serve --models {out}")

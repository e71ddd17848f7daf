"""The command `rheostat measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.failing import failing, missing
from server.settings import data_folder


def measure(
    model: Annotated[Path, typer.Argument(help="Checkpoint of a text encoder; changed in place.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="TASK=WHERE, may be repeated, also for a task, whose errors then hold for other "
            "data too: a folder in BEIR's layout, a .tsv of rated pairs or "
            "of questions with answers, a .csv of labelled texts, or a set of the data folder: "
            "stsb/dev, scifact/train, cranfield, trecqa/dev, banking77/train, clinc150/val, "
            "pydoc-code/dev."
        ),
    ],
    seed: Annotated[int, typer.Option(help="Of what is drawn from large sets.")] = 0,
) -> None:
    """Measure every subnet of a text encoder for several tasks, which replace those it has."""
    try:
        from search.offline import measuring_tasks, text_tasks
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        read = [text_tasks.read_task(one, data_folder(), seed) for one in data]
        found = measuring_tasks.measure_tasks(model, read, lambda what: typer.echo(what, err=True))
    for task, score in found.items():
        typer.echo(
            f"{task}: whole {score.value:.4f}, standard error {score.stderr:.4f}, n {score.n}"
        )
    typer.echo(f"done; serve it with: rheostat serve --models {model}")

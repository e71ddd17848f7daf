"""The command `rheostat quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.failing import failing, missing
from server.settings import data_folder

_IMAGES = "cifar100"


def quantize(
    folder: Annotated[
        Path, typer.Argument(help="Checkpoint of a text or image model; changed in place.")
    ],
    pairs: Annotated[
        Path | None,
        typer.Option(help="Rated pairs to measure on: TSV with sentence1, sentence2, score."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Or images with their classes: CSV with file, label."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Or what it was trained on: general, pydoc-code or cifar100. Or, of a text "
            "encoder with several tasks, TASK=WHERE for each, as for `rheostat measure`."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn from large sets of TASK.")] = 0,
) -> None:
    """Offer int8 weights beside a checkpoint's own: measure every subnet with them."""
    try:
        from models.train import cifar100
        from search.offline import converting, quantizing, text_data, text_tasks
        from search.offline.measuring import Texts
        from search.quality.embeddings import SimilarityQuality
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    with failing():
        if sum(bool(one) for one in (pairs, images, data)) != 1:
            raise ValueError("one of --pairs, --images and --data is needed")
        if data == [_IMAGES]:
            splits = cifar100.load(data_folder() / _IMAGES)
            mean, rounded = quantizing.quantize_images(folder, splits)
            typer.echo(f"done; whole model, mean: {mean:.4f} with 32 bits, {rounded:.4f} with 8")
            return
        if data and all("=" in one for one in data):
            read = [text_tasks.read_task(one, data_folder(), seed) for one in data]
            found = quantizing.quantize_tasks(folder, read, lambda what: typer.echo(what, err=True))
            for task, (whole, few) in found.items():
                typer.echo(
                    f"{task}, n {few.n}: {whole.value:.4f} with 32 bits, {few.value:.4f} with 8"
                )
            return
        if images is not None:
            before, after = quantizing.quantize_labelled(folder, images)
        elif pairs is not None:
            score = Texts(SimilarityQuality(converting.read_pairs(pairs)))
            before, after = quantizing.quantize(folder, score)
        elif data and len(data) == 1 and data[0] in text_data.DATA:
            score = Texts(text_data.DATA[data[0]](data_folder()).validation)
            before, after = quantizing.quantize(folder, score)
        else:
            names = [*text_data.DATA, _IMAGES]
            raise ValueError(f"--data={data} must be one of {names}, or TASK=WHERE of each task")
    typer.echo(
        f"done; whole model, n {after.n}: {before.value:.4f} with 32 bits, {after.value:.4f} with 8"
    )

"""The command `rheostat dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.offline import datasets
from server.cli.failing import failing
from server.settings import data_folder

_WRITERS = {
    "camvid": datasets.write_camvid,
    "cifar100": datasets.write_cifar100,
    "pipe-rgbd": datasets.write_pipe_rgbd,
}
_NAMES = ["scenes", *_WRITERS]


def dataset(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(_NAMES)}.")],
    out: Annotated[Path, typer.Argument(help="Folder that is made.")],
    train: Annotated[int, typer.Option(min=1, help="Images to learn from; scenes only.")] = 4000,
    validation: Annotated[int, typer.Option(min=1, help="Likewise, to choose on.")] = 200,
    test: Annotated[int, typer.Option(min=1, help="Likewise, to report on.")] = 500,
    size: Annotated[int, typer.Option(min=8, help="Height and width; scenes only.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes.")] = 0,
) -> None:
    """Write a folder of images with a dataset.toml, as `rheostat train vision` reads it."""
    with failing():
        if name == "scenes":
            counts = {"train": train, "validation": validation, "test": test}
            datasets.write_scenes(out, counts, size, seed, typer.echo)
        elif name in _WRITERS:
            _WRITERS[name](data_folder() / name, out, typer.echo)
        else:
            raise ValueError(f"{name!r} must be one of {_NAMES}")
    typer.echo(f"done; train on it with: rheostat train vision --data {out} --out MODEL")

"""The command `rheostat elasticize`."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from models.formats.image_classifiers import FORMATS, is_one
from models.formats.image_classifiers import read as read_classifier
from server.cli.failing import failing, missing, numbers

_KEEP = "0.25,0.4,0.5,0.6,0.8"


class Progress:
    """A bar of seconds: how many of those given are left, and what is being done."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started = time.monotonic()
        self._bar = tqdm(
            total=round(seconds),
            unit="s",
            bar_format="{desc} {bar} {n_fmt}/{total_fmt} s",
            disable=None if sys.stderr.isatty() else True,
        )

    def tell(self, what: str) -> None:
        """Say what is being done, and move on to now."""
        spent = time.monotonic() - self._started
        left = max(0.0, self._seconds - spent)
        self._bar.set_description(f"{what}, {left:.0f} s left", refresh=False)
        self._bar.n = round(self._seconds - left)
        self._bar.refresh()

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def elasticize(
    source: Annotated[
        Path,
        typer.Argument(help="sentence-transformers or Hugging Face folder, or a file of tensors."),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Your data: .tsv of rated pairs (sentence1, sentence2, score), .csv of text and "
            "label, .txt of texts, one a line, or a folder of images, in folders of their classes "
            "or without any."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; reruns go on in it.")],
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="More texts to rank and refit on: .txt, one a line. May be repeated."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Ends with the best so far.")] = 5.0,
    keep: Annotated[
        str, typer.Option(help="Shares of the layers' multiply-accumulates to offer.")
    ] = _KEEP,
    rankings: Annotated[
        str | None, typer.Option(help="Of heads and units, to be compared. Default: all.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients will ask for.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and the search.")] = 0,
    format: Annotated[  # the option's name
        str | None,
        typer.Option(help=f"Of a convolutional file, where it must be told: {', '.join(FORMATS)}."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Class names of a convolutional file, one a line.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=32, help="Side of a convolutional network's images, pixels.")
    ] = None,
) -> None:
    """Make a trained model of texts or images elastic on your data, without training."""
    try:
        from search.offline import (
            elastic_checkpoint,
            front_page,
            image_checkpoint,
            material,
            options,
        )
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    progress = Progress(60 * minutes)
    with failing(), closing(progress):
        chosen = options.RunOptions(
            seconds=60 * minutes,
            keep=numbers("keep", keep, float, f"shares, such as {_KEEP}"),
            rankings=options.named(rankings),
            seed=seed,
        )
        files = [data, *(texts or [])]
        digests = [material.digest_of(one) for one in files]
        read = material.read_material(data, texts or [], seed)
        if is_one(source):
            classes = None if labels is None else labels.read_text(encoding="utf-8").split("\n")
            base = read_classifier(
                source,
                name or source.resolve().stem,
                format,
                [one for one in classes or () if one] or None,
                size=size,
            )
            front = image_checkpoint.elasticize_images(
                base, source, out, read, chosen, time.monotonic, progress.tell
            )
        elif (format, labels, size) != (None, None, None):
            raise ValueError(
                f"--format, --labels and --size are of convolutional files; {source} is none"
            )
        else:
            front = elastic_checkpoint.elasticize(
                source,
                out,
                name or source.resolve().name,
                read,
                chosen,
                {"seed": seed, "data": digests},
                time.monotonic,
                progress.tell,
                pair=data.suffix == ".tsv",
            )
    typer.echo(front_page.plain(front))
    typer.echo(f"picture: {out / front_page.PICTURE}, page: {out / front_page.PAGE}")
    typer.echo(f"done; serve it with: rheostat serve --models {out}")

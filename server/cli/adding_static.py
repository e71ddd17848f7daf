"""The command `rheostat static`."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.elasticizing import Progress
from server.cli.failing import failing, missing

if TYPE_CHECKING:
    from search.offline.static_check import Check


def static(
    model: Annotated[Path, typer.Argument(help="Checkpoint of a text encoder; changed in place.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Your documents: .jsonl with text and perhaps title on each line, or .txt with a "
            "text on each."
        ),
    ],
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="More texts to fit on: .txt, one a line. May be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write a copy of the checkpoint here instead.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Fits on the texts that were embedded until then.")
    ] = 2.0,
    seed: Annotated[int, typer.Option(help="Of what is held out and of the order.")] = 0,
) -> None:
    """Give a text encoder an exit without layers: a vector per token, fitted to your documents."""
    try:
        from search.offline import corpus, material, static_exit
    except ModuleNotFoundError as error:
        raise missing(error.name) from None
    progress = Progress(60 * minutes)
    with failing(), closing(progress):
        if not minutes > 0:
            raise ValueError(f"--minutes={minutes} must be above 0")
        read = corpus.read_corpus(data, texts or [], seed)
        digests = [material.digest_of(one) for one in (data, *(texts or []))]
        if out is not None:
            if out.exists():
                raise ValueError(f"--out={out} exists already")
            shutil.copytree(model, out)
        check = static_exit.add_static(
            out or model,
            read,
            60 * minutes,
            {"data": digests, "seed": seed},
            time.monotonic,
            progress.tell,
        )
    typer.echo(_told(check))
    typer.echo(f"done; serve it with: rheostat serve --models {out or model}")


def _told(check: Check) -> str:
    """Return what the check found, in words."""
    lines = [
        f"fitted on {check.fitted_on} of {check.of} texts in {check.seconds:.0f} s; on others:",
        f"agreement with the whole model {check.agreement:.3f}",
    ]
    if check.found is not None and check.whole is not None and check.kept is not None:
        lines.append(
            f"{check.queries} sentences that seek their documents among {check.documents}: nDCG@10 "
            f"{check.found:.3f} of {check.whole:.3f}, {100 * check.kept:.1f} % "
            f"(standard error {100 * check.stderr:.1f})"
        )
    if check.fitted_on < check.of:
        lines.append("the other texts did not fit into --minutes: with more the exit keeps more")
    return "\n".join(lines)

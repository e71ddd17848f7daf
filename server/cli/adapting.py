"""The command `rheostat adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.offline import adapting
from server.cli.failing import failing, numbers


def adapt(
    source: Annotated[Path, typer.Argument(help="Checkpoint of a text encoder or classifier.")],
    adapter: Annotated[
        list[str],
        typer.Option(help="NAME=FOLDER of PEFT's, with adapter_config.json; may be repeated."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
    name: Annotated[str, typer.Option(help="What clients will ask for.")],
    ranks: Annotated[
        str | None,
        typer.Option(help="On offer, such as 2,4,8. Default: a quarter, half and all of it."),
    ] = None,
) -> None:
    """Put LoRA adapters of the PEFT library on a model: each request names the one it wants."""
    with failing():
        folders: dict[str, Path] = {}
        for one in adapter:
            key, _, folder = one.partition("=")
            if not key or not folder or key in folders:
                raise ValueError(f"--adapter={one} must be NAME=FOLDER, each name once")
            folders[key] = Path(folder)
        wanted = None if ranks is None else numbers("ranks", ranks, int, "whole numbers, as 2,4,8")
        adapting.adapt(source, folders, out, name, wanted)
    typer.echo(
        "done; scores with adapters are predicted from the trunk's, not measured; serve it with: "
        f"rheostat serve --models {out}"
    )

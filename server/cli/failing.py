"""How commands end when something is wrong, and how they read lists of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import typer

N = TypeVar("N", int, float)


@contextmanager
def failing() -> Iterator[None]:
    """Tell in a line what is wrong with the input or the files, and end the command with code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"rheostat: {error}", err=True)
        raise typer.Exit(2) from None


def missing(module: str | None, extra: str = "train") -> typer.Exit:
    """Say which extra has a module that is not installed, and return what ends the command."""
    typer.echo(f"rheostat: {module} is missing: pip install 'rheostat[{extra}]'", err=True)
    return typer.Exit(2)


def numbers(option: str, text: str, kind: Callable[[str], N], allowed: str) -> tuple[N, ...]:
    """Read what an option lists between commas; ValueError that says what is allowed."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--{option}={text} must be {allowed}") from None
